import { type Command, Option } from 'commander';
import { announceRootToken, log, superviseProcess } from '../process-life.ts';
import { addServeOptions, type ServeOptions, serveTls, servingOf } from '../serve-options.ts';
import { addStoreStatus } from './store-status.ts';

interface Options extends ServeOptions {
  readonly cors: boolean;
  readonly auth: boolean;
}

/** How long open requests may take to finish when the process is told to stop. */
const STOP_GRACE_MS = 2_000;

export function addStore(program: Command): void {
  const command = program.command('store').description('Run the stream store alone, behind the S2 API.');
  addServeOptions(command)
    .addOption(
      new Option('--no-cors', 'keep out web pages of other origins (implied by --no-auth)').env('MILLRACE_NO_CORS'),
    )
    .addOption(new Option('--no-auth', 'take requests without an access token').env('MILLRACE_NO_AUTH'))
    .addHelpText('after', EXAMPLES)
    .action(store);
  addStoreStatus(command);
}

const EXAMPLES = `
Examples:
  $ millrace store --data ./streams
  $ millrace store --data ./streams --host 0.0.0.0 --tls-cert fullchain.pem --tls-key privkey.pem`;

async function store(options: Options): Promise<void> {
  const { storage, http: surface, resources } = await servingOf(options);
  const { openLocalStore } = await import('@millrace/stream-store/local-store');
  const { startHttpServer } = await import('@millrace/stream-store/http/server');
  const life = superviseProcess();
  const opened = await openLocalStore({ ...storage, dir: options.data, log });
  try {
    const { host, port } = options;
    const serve = async () => {
      if (resources !== undefined) {
        const { provisionResources } = await import('@millrace/server/resource-provisioning');
        await provisionResources(opened, resources, log);
      }
      // Without tokens, any web page could otherwise reach the store through a visitor's browser.
      const cors = options.cors && options.auth;
      const auth = options.auth ? 'required' : 'off';
      return await startHttpServer({ ...surface, store: opened, host, port, cors, auth, log });
    };
    const showToken = (url: string) => {
      if (opened.firstRootToken !== null) announceRootToken(opened.firstRootToken, url);
    };
    const http = await serve().catch((error: unknown) => {
      // The data directory is made, and the next start will not show the token.
      showToken(`${surface.tls === undefined ? 'http' : 'https'}://${host}:${port}`);
      throw error;
    });
    serveTls(http, options, life);
    showToken(http.url);
    process.stdout.write(`millrace store listening on ${http.url} (data in ${options.data})\n`);
    // Nothing that a failed store took is acknowledged any more; a supervisor has to see that it is over.
    const failed = opened.failed.then((error) => Promise.reject(error));
    try {
      await Promise.race([life.stopped, failed]);
    } finally {
      await http.close({ graceMs: STOP_GRACE_MS });
    }
  } finally {
    await opened.close();
  }
}
