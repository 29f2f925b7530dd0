import { type Command, Option } from 'commander';
import { portNumber } from '../option-value.ts';
import { announceRootToken, log, superviseProcess } from '../process-life.ts';

interface Options {
  readonly data: string;
  readonly host: string;
  readonly port: number;
  readonly cors: boolean;
  readonly auth: boolean;
}

/** How long open requests may take to finish when the process is told to stop. */
const STOP_GRACE_MS = 2_000;

export function addStore(program: Command): void {
  program
    .command('store')
    .description('Run the stream store alone, behind the S2 API.')
    .addOption(new Option('-d, --data <dir>', 'directory of the store, made if missing').makeOptionMandatory())
    .addOption(
      new Option('-p, --port <port>', 'port to listen on; 0 for a free one').argParser(portNumber).default(8080),
    )
    .addOption(new Option('--host <host>', 'address to listen on').default('127.0.0.1'))
    .addOption(new Option('--no-cors', 'keep out web pages of other origins (implied by --no-auth)'))
    .addOption(new Option('--no-auth', 'take requests without an access token'))
    .addHelpText('after', '\nExample:\n  $ millrace store --data ./streams --port 8080')
    .action(store);
}

async function store(options: Options): Promise<void> {
  const { openLocalStore } = await import('@millrace/stream-store/local-store');
  const { startHttpServer } = await import('@millrace/stream-store/http/server');
  const life = superviseProcess();
  const opened = await openLocalStore({ dir: options.data });
  try {
    const { host, port } = options;
    // Without tokens, any web page could otherwise reach the store through a visitor's browser.
    const cors = options.cors && options.auth;
    const http = await startHttpServer({
      store: opened,
      host,
      port,
      cors,
      auth: options.auth ? 'required' : 'off',
      log,
    });
    if (opened.firstRootToken !== null) announceRootToken(opened.firstRootToken, http.url);
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
