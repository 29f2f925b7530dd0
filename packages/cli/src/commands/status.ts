import { setTimeout as delay } from 'node:timers/promises';
import type { StatusView } from '@millrace/server/management/status-routes';
import type { Command } from 'commander';
import { addClientOptions, type ClientOptions } from '../client.ts';
import { CommandFailure } from '../failure.ts';
import { mark, paint, paintStatus, renderFinding, renderTable } from '../findings-view.ts';
import { askManagement } from '../management-client.ts';
import { formatBytes } from '../metrics-view.ts';
import { abortOnInterrupt, standardOutput } from '../terminal.ts';

interface Options extends ClientOptions {
  readonly json?: boolean;
  readonly watch?: boolean;
}

const WATCH_MS = 2_000;
const CLEAR = '\x1b[2J\x1b[H';

export function addStatus(program: Command): void {
  const command = program
    .command('status')
    .description('Show databases, slots, sinks and how far they are behind, of a running `millrace start`.')
    .option('--json', 'one JSON object; with --watch one per line')
    .option('-w, --watch', 'again every 2 seconds, until Ctrl-C');
  addClientOptions(command)
    .addHelpText(
      'after',
      '\nEnds with 0 when all that is configured flows, else with 1.\n\nExamples:\n  $ millrace status\n  $ millrace status --json',
    )
    .action(status);
}

async function status(options: Options): Promise<void> {
  if (options.watch === true) abortOnInterrupt();
  for (;;) {
    const { body } = await askManagement(options, 'GET', '/status');
    if (!Array.isArray(body?.databases)) throw new CommandFailure('not_found', 'this is not the status of a millrace.');
    const view = body as StatusView;
    process.exitCode = view.ready ? 0 : 1;
    if (options.json === true) await standardOutput.write(`${JSON.stringify(view)}\n`);
    else await standardOutput.write(`${options.watch === true && process.stdout.isTTY ? CLEAR : ''}${render(view)}`);
    if (options.watch !== true) return;
    await delay(WATCH_MS);
  }
}

type DatabaseView = StatusView['databases'][number];
type LagView = DatabaseView['lag'];

export function render(view: StatusView): string {
  const parts = [
    view.ready ? `${mark('ok')} ready\n` : `${mark('error')} not ready: ${reasons(view)}\n`,
    databaseTable(view.databases),
  ];
  if (view.databases.some(({ sinks }) => sinks.length > 0)) parts.push(sinkTable(view.databases));
  const backfills = view.databases.flatMap(({ sinks }) => sinks.flatMap(openBackfills));
  if (backfills.length > 0) parts.push(renderTable(['BACKFILL', 'SINK', 'STATE', 'ROWS'], backfills));
  const findings = view.databases.flatMap((database) => [
    ...findingsOf('database', database.name, database.health),
    ...database.sinks.flatMap((sink) => findingsOf('sink', sink.name, sink.health)),
  ]);
  if (findings.length > 0) parts.push(`${findings.join('\n')}\n`);
  return parts.join('\n');
}

function reasons({ reasons: all }: StatusView): string {
  return all.map(({ name, check, status: of }) => `${name} ${check} ${of}`).join(', ');
}

function databaseTable(databases: readonly DatabaseView[]): string {
  const rows = databases.map(({ name, state, health, slot, lag, change_log_bytes: logBytes }) => [
    name,
    state,
    healthText(health),
    slot.name,
    slot.wal_status ?? '-',
    lagText(lag),
    logBytes === null ? '-' : formatBytes(logBytes),
  ]);
  const head = ['DATABASE', 'STATE', 'HEALTH', 'SLOT', 'WAL', 'BEHIND', 'CHANGE LOG'];
  return renderTable(head, rows, (column, cell, padded) =>
    column === 1 || column === 2 ? paintStatus(cell, padded) : padded,
  );
}

function sinkTable(databases: readonly DatabaseView[]): string {
  const rows = databases.flatMap((database) =>
    database.sinks.map(({ name, state, health, lag, messages_delivered: messages }) => [
      name,
      database.name,
      state,
      healthText(health),
      lagText(lag),
      String(messages),
    ]),
  );
  const head = ['SINK', 'DATABASE', 'STATE', 'HEALTH', 'BEHIND', 'DELIVERED'];
  return renderTable(head, rows, (column, cell, padded) =>
    column === 2 || column === 3 ? paintStatus(cell, padded) : padded,
  );
}

/** Those that are over say nothing about now. */
function openBackfills({ name, backfills }: DatabaseView['sinks'][number]): string[][] {
  return backfills
    .filter(({ state }) => state === 'active' || state === 'paused' || state === 'failed')
    .map(({ table, state, rows_processed_count: rows, waiting }) => [
      table,
      name,
      waiting === null ? state : `${state} (waits)`,
      String(rows),
    ]);
}

function healthText({ status, ignored }: DatabaseView['health']): string {
  return ignored === true ? `${status} (ignored)` : status;
}

/** `1.2 MiB, 34 tx, 5.1 s`; what is not known is left out. */
function lagText({ bytes, transactions, seconds }: LagView): string {
  if (bytes === '0') return '0';
  const parts = [formatBytes(Number(bytes))];
  if (transactions !== null) parts.push(`${transactions} tx`);
  if (seconds !== null) parts.push(`${seconds < 10 ? seconds.toFixed(1) : Math.round(seconds)} s`);
  return parts.join(', ');
}

function findingsOf(kind: string, name: string, health: DatabaseView['health']): string[] {
  const findings = health.checks.flatMap((check) => check.findings).filter(({ severity }) => severity !== 'notice');
  if (findings.length === 0) return [];
  const shown = findings.map(({ slug, severity, summary, fix }) =>
    renderFinding({ slug, severity, text: summary, fix }),
  );
  return [`${kind} ${paint('bold', name)}`, ...shown];
}
