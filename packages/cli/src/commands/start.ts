import type { Applied } from '@millrace/api/applied/draft';
import { type Command, Option } from 'commander';
import { addNetworkOptions, type NetworkOptions, networkOf } from '../network-options.ts';
import { byteSize } from '../option-value.ts';
import { announceRootToken, log, superviseProcess } from '../process-life.ts';
import { addServeOptions, type ServeOptions, serveTls, servingOf } from '../serve-options.ts';

interface Options extends ServeOptions, NetworkOptions {
  readonly config?: string;
  readonly changeLogMax?: number;
}

export function addStart(program: Command): void {
  const command = program
    .command('start')
    .description('Run everything from a config file: Postgres in, streams out.')
    .addOption(
      new Option(
        '-c, --config <file>',
        'millrace.yaml (the schema of sequin.yaml); without it, what was applied before runs',
      ).env('MILLRACE_CONFIG'),
    );
  addNetworkOptions(addServeOptions(command))
    .addOption(
      new Option(
        '--change-log-max <size>',
        'how much the change log keeps for slow sinks before it stops them (default: 16GiB)',
      )
        .env('MILLRACE_CHANGE_LOG_MAX')
        .argParser(byteSize),
    )
    .addHelpText('after', `\n${EXAMPLE}`)
    .action(start);
}

const EXAMPLE = `Example:
  $ cat millrace.yaml
  databases:
    - name: shop
      url: postgres://postgres:\${PGPASSWORD}@localhost:5432/shop
      slot: { name: millrace, create_if_not_exists: true }
      publication: { name: millrace, create_if_not_exists: true }
  sinks:
    - name: products
      database: shop
      source: { include_tables: [products] }
      initial_backfill: true
      destination: { type: s2, basin: shop-streams, stream: products }
  $ millrace start --config millrace.yaml --data ./data`;

async function start(options: Options): Promise<void> {
  const { storage, http, resources } = await servingOf(options);
  const config = options.config === undefined ? null : await configFrom(options.config);
  const { startServer } = await import('@millrace/server/main');
  const life = superviseProcess();
  const server = await startServer({
    config,
    secretKey: process.env.MILLRACE_SECRET_KEY,
    dataDir: options.data,
    host: options.host,
    port: options.port,
    log,
    changeLogBytesMax: options.changeLogMax,
    network: networkOf(options),
    resources,
    onRootToken: announceRootToken,
    storage,
    http,
    signal: life.stop,
  });
  try {
    if (life.stop.aborted) return;
    serveTls(server.http, options, life);
    process.stdout.write(`millrace listening on ${server.url} (data in ${options.data})\n`);
    await Promise.race([life.stopped, server.done.then(() => life.stopped)]);
  } finally {
    await server.stop();
  }
}

async function configFrom(file: string): Promise<Applied> {
  const { loadConfigFile } = await import('@millrace/server/config/function-problems');
  const { readConfigText } = await import('@millrace/api/config-text');
  return loadConfigFile(await readConfigText(file), { file, env: process.env });
}
