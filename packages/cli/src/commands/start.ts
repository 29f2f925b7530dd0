import { type Command, Option } from 'commander';
import { byteSize, portNumber } from '../option-value.ts';
import { announceRootToken, log, superviseProcess } from '../process-life.ts';

interface Options {
  readonly config: string;
  readonly data: string;
  readonly host: string;
  readonly port: number;
  readonly changeLogMax?: number;
}

export function addStart(program: Command): void {
  program
    .command('start')
    .description('Run everything from a config file: Postgres in, streams out.')
    .addOption(new Option('-c, --config <file>', 'millrace.yaml (the schema of sequin.yaml)').makeOptionMandatory())
    .addOption(new Option('-d, --data <dir>', 'directory of the store, made if missing').makeOptionMandatory())
    .addOption(
      new Option('-p, --port <port>', 'port of the S2 API; 0 for a free one').argParser(portNumber).default(8080),
    )
    .addOption(new Option('--host <host>', 'address to listen on').default('127.0.0.1'))
    .addOption(
      new Option(
        '--change-log-max <size>',
        'how much the change log keeps for slow sinks before it stops them (default: 16GiB)',
      ).argParser(byteSize),
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
  const { readConfigFile } = await import('@millrace/api/config');
  const config = await readConfigFile(options.config, process.env);
  const { startServer } = await import('@millrace/server/main');
  const life = superviseProcess();
  const server = await startServer({
    config,
    dataDir: options.data,
    host: options.host,
    port: options.port,
    log,
    changeLogBytesMax: options.changeLogMax,
  });
  if (server.firstRootToken !== null) announceRootToken(server.firstRootToken, server.url);
  process.stdout.write(`millrace listening on ${server.url} (data in ${options.data})\n`);
  try {
    await Promise.race([life.stopped, server.done.then(() => life.stopped)]);
  } finally {
    await server.stop();
  }
}
