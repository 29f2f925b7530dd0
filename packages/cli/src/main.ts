import { type Argument, Command, CommanderError } from 'commander';
import manifest from '../package.json' with { type: 'json' };
import { CLIENT_ENVIRONMENT } from './client.ts';
import { addAppend } from './commands/append.ts';
import { addApply } from './commands/apply.ts';
import { addBackfill } from './commands/backfill.ts';
import { addBench } from './commands/bench.ts';
import { addCheck } from './commands/check.ts';
import { addCheckTail } from './commands/check-tail.ts';
import { addConfig } from './commands/config.ts';
import { addConsumeToken } from './commands/consume-token.ts';
import { addCreateBasin } from './commands/create-basin.ts';
import { addCreateStream } from './commands/create-stream.ts';
import { addDdlTrigger } from './commands/ddl-trigger.ts';
import { addDeadLetters } from './commands/dead-letters.ts';
import { addDeleteBasin } from './commands/delete-basin.ts';
import { addDeleteStream } from './commands/delete-stream.ts';
import { addDemo } from './commands/demo.ts';
import { addDiff } from './commands/diff.ts';
import { addFence } from './commands/fence.ts';
import { addFunction } from './commands/function.ts';
import { addTypes } from './commands/function-types.ts';
import { addGetAccountMetrics } from './commands/get-account-metrics.ts';
import { addGetBasinConfig } from './commands/get-basin-config.ts';
import { addGetBasinMetrics } from './commands/get-basin-metrics.ts';
import { addGetDefaultLocation } from './commands/get-default-location.ts';
import { addGetStreamConfig } from './commands/get-stream-config.ts';
import { addGetStreamMetrics } from './commands/get-stream-metrics.ts';
import { addIssueAccessToken } from './commands/issue-access-token.ts';
import { addListAccessTokens } from './commands/list-access-tokens.ts';
import { addListBasins } from './commands/list-basins.ts';
import { addListLocations } from './commands/list-locations.ts';
import { addListStreams } from './commands/list-streams.ts';
import { addLs } from './commands/ls.ts';
import { addRead } from './commands/read.ts';
import { addReconfigureBasin } from './commands/reconfigure-basin.ts';
import { addReconfigureStream } from './commands/reconfigure-stream.ts';
import { addRevokeAccessToken } from './commands/revoke-access-token.ts';
import { addSetDefaultLocation } from './commands/set-default-location.ts';
import { addSink } from './commands/sink.ts';
import { addStart } from './commands/start.ts';
import { addStatus } from './commands/status.ts';
import { addStore } from './commands/store.ts';
import { addTail } from './commands/tail.ts';
import { addTrim } from './commands/trim.ts';
import { addVerify } from './commands/verify.ts';
import { CommandFailure, explainFailure } from './failure.ts';
import { settleFlagEnvironment } from './flag-environment.ts';
import { endQuietlyOnClosedPipe } from './terminal.ts';

/**
 * The command line. Commands load what they need (SDK, engine, schemas) only when they run, so that --help is fast.
 * Exit codes: 0 done, 1 refused or failed, 2 the command line itself is wrong, 130 Ctrl-C.
 */
function buildProgram(): Command {
  const program = new Command('millrace')
    .description('Postgres changes as durable streams, in one process.')
    .usage('<command> [options]')
    .version(manifest.version)
    .showSuggestionAfterError()
    .showHelpAfterError('(see --help)')
    .helpCommand(false)
    .configureHelp({
      subcommandTerm: (command) => [command.name(), ...command.registeredArguments.map(argumentTerm)].join(' '),
    })
    .exitOverride()
    .addHelpText('after', `\n${CLIENT_ENVIRONMENT}\n\nFirst steps:\n  $ millrace demo\n  $ millrace start --help`);

  program.commandsGroup('Run:');
  for (const add of [
    addDemo,
    addCheck,
    addStart,
    addStatus,
    addSink,
    addDeadLetters,
    addBackfill,
    addVerify,
    addDdlTrigger,
    addStore,
    addBench,
  ])
    add(program);
  program.commandsGroup('Functions:');
  for (const add of [addFunction, addTypes]) add(program);
  program.commandsGroup('Records:');
  for (const add of [addAppend, addRead, addTail, addCheckTail, addTrim, addFence]) add(program);
  program.commandsGroup('Streams:');
  const streams = [addLs, addListStreams, addCreateStream, addGetStreamConfig, addReconfigureStream, addDeleteStream];
  for (const add of streams) add(program);
  program.commandsGroup('Basins:');
  for (const add of [addListBasins, addCreateBasin, addGetBasinConfig, addReconfigureBasin, addDeleteBasin])
    add(program);
  program.commandsGroup('Setup:');
  for (const add of [addApply, addDiff, addListLocations, addGetDefaultLocation, addSetDefaultLocation, addConfig])
    add(program);
  program.commandsGroup('Metrics:');
  for (const add of [addGetAccountMetrics, addGetBasinMetrics, addGetStreamMetrics]) add(program);
  program.commandsGroup('Access tokens:');
  for (const add of [addIssueAccessToken, addListAccessTokens, addRevokeAccessToken, addConsumeToken]) add(program);
  return program;
}

function argumentTerm(argument: Argument): string {
  return argument.required ? `<${argument.name()}>` : `[${argument.name()}]`;
}

async function run(args: readonly string[]): Promise<number> {
  const program = buildProgram();
  if (args.length === 0) {
    program.outputHelp();
    return 0;
  }
  try {
    settleFlagEnvironment(program, process.env);
    await program.parseAsync(args, { from: 'user' });
    // Set by commands that are done and have to say more than that: diff --exit-code, an interrupted bench.
    return Number(process.exitCode ?? 0);
  } catch (error) {
    if (error instanceof CommanderError) return error.exitCode === 0 ? 0 : 2;
    process.stderr.write(`${explainFailure(error)}\n`);
    return error instanceof CommandFailure && error.code === 'usage' ? 2 : 1;
  }
}

endQuietlyOnClosedPipe();
const exitCode = await run(process.argv.slice(2));
// Connections the SDK keeps for later would hold the process; what is still in the pipe has to get out first.
await new Promise((resolve) => process.stdout.write('', resolve));
process.exit(exitCode);
