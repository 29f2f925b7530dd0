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

export function addStore(program: Command): void {
  program
    .command('store')
    .description('Run the stream store alone, behind the S2 API.')
    .addOption(new Option('-d, --data <dir>', 'directory of the store, made if missing').makeOptionMandatory())
    .addOption(
      new Option('-p, --port <port>', 'port to listen on; 0 for a free one').argParser(portNumber).default(8080),
    )
    .addOption(new Option('--host <host>', 'address to listen on').default('127.0.0.1'))
    .addOption(new Option('--no-cors', 'refuse requests from web pages of other origins'))
    .addOption(new Option('--no-auth', 'take requests without an access token'))
    .addHelpText('after', '\nExample:\n  $ millrace store --data ./streams --port 8080')
    .action(store);
}

async function store(options: Options): Promise<void> {
  void options;
  void announceRootToken;
  void log;
  void superviseProcess;
}
