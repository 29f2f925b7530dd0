/**
 * Where the time goes: drains a backlog with one client under V8's profiler and prints the functions by self time.
 *
 *   node bench/profile.ts [--client change-log|stream|framing] [--table small|one|big] [--scale 1] [--top 25]
 *                         [--keep FILE.cpuprofile]
 *   node bench/profile.ts --client latency [--rows-per-second 25000]     the whole path under a steady load instead
 */
import { copyFileSync, readFileSync } from 'node:fs';
import { join, relative, sep } from 'node:path';
import { fileURLToPath } from 'node:url';
import { parseArgs } from 'node:util';
import { PUBLICATION, TABLES } from './backlog.ts';
import { PROFILE_VARIABLE, type Usage } from './clients/client.ts';
import { type DrainClient, drainOnce, type TableName, withBacklog } from './drains.ts';
import { followLoad, steadyLoad } from './latency.ts';
import { runSession } from './life.ts';
import type { Session } from './session.ts';
import { percentile } from './statistics.ts';

interface ProfileNode {
  readonly id: number;
  readonly callFrame: { readonly functionName: string; readonly url: string; readonly lineNumber: number };
  readonly children?: readonly number[];
}

interface Profile {
  readonly nodes: readonly ProfileNode[];
  readonly samples: readonly number[];
  readonly timeDeltas: readonly number[];
}

const CLIENTS = ['framing', 'change-log', 'stream', 'latency'] as const;
const LOAD_SECONDS = 5;

const { values } = parseArgs({
  options: {
    client: { type: 'string', default: 'stream' },
    table: { type: 'string', default: 'small' },
    scale: { type: 'string', default: '1' },
    top: { type: 'string', default: '25' },
    keep: { type: 'string' },
    'rows-per-second': { type: 'string', default: '25000' },
  },
});

const client = CLIENTS.find((name) => name === values.client);
if (client === undefined || !Object.hasOwn(TABLES, values.table)) {
  process.stderr.write(
    `bench: --client is one of ${CLIENTS.join(', ')}; --table of ${Object.keys(TABLES).join(', ')}\n`,
  );
  process.exit(2);
}

await runSession({ runs: 1, scale: Number(values.scale) }, (session) =>
  session.withDirectory(async (dir) => {
    const file = join(dir, 'run.cpuprofile');
    const rows = client === 'latency' ? await profileLoad(session, file) : await profileDrain(session, client, file);
    if (values.keep !== undefined) copyFileSync(file, values.keep);
    printTop(JSON.parse(readFileSync(file, 'utf8')) as Profile, Number(values.top), rows);
  }),
);

async function profileDrain(session: Session, name: DrainClient, file: string): Promise<number> {
  const table = TABLES[values.table as TableName];
  const rows = session.rows(table.rows, table.rowsPerTransaction);
  await withBacklog(session, table, rows, async (database, endLsn) => {
    const input = { connection: database.connection, publication: PUBLICATION, rows, endLsn, recvlogical: null };
    await drainOnce(session, database, 'framing', input);
    const plain = await drainOnce(session, database, name, input);
    const { seconds, result } = await drainOnce(session, database, name, input, { [PROFILE_VARIABLE]: file });
    const cpu = ({ cpuSeconds, systemSeconds }: Usage) =>
      `${((cpuSeconds * 1e6) / rows).toFixed(2)} CPU s per million rows ` +
      `(${((systemSeconds * 1e6) / rows).toFixed(2)} of it in the kernel)`;
    print(`${name}, ${rows} rows of "${table.name}": ${rate(rows, plain.seconds)}, ${cpu(plain.result)}`);
    print(`under the profiler: ${rate(rows, seconds)}, ${cpu(result)}`);
  });
  return rows;
}

async function profileLoad(session: Session, file: string): Promise<number> {
  const load = steadyLoad(Number(values['rows-per-second']), LOAD_SECONDS);
  const run = await followLoad(session, 'in-process', load, { [PROFILE_VARIABLE]: file });
  print(
    `${rate(run.rowsPerSecond, 1)} in transactions of ${load.rowsPerTransaction}: ` +
      `p50 ${percentile(run.latencies, 0.5).toFixed(2)} ms, p99 ${percentile(run.latencies, 0.99).toFixed(2)} ms, ` +
      `${run.cpuSecondsPerMillionRows.toFixed(2)} CPU s per million rows under the profiler`,
  );
  return load.transactions * load.rowsPerTransaction;
}

function rate(rows: number, seconds: number): string {
  return `${Math.round(rows / seconds / 1000)} k rows/s`;
}

function printTop({ nodes, samples, timeDeltas }: Profile, count: number, rows: number): void {
  const names = nameNodes(nodes);
  const self = new Map<string, number>();
  let busy = 0;
  for (let i = 0; i < samples.length; i++) {
    const name = names.get(samples[i]!)!;
    if (name === '(idle)' || name.includes('startProfile')) continue;
    const micros = timeDeltas[i]!;
    busy += micros;
    self.set(name, (self.get(name) ?? 0) + micros);
  }
  // Node counts as idle while it takes bytes off a socket; the thread pool's time is in no profile either.
  print(
    `main thread in JavaScript ${(busy / 1e6).toFixed(2)} s; self time by function (< who called it, where it is not ours):`,
  );
  const sorted = [...self].sort((a, b) => b[1] - a[1]).slice(0, count);
  for (const [name, micros] of sorted) {
    const share = ((micros * 100) / busy).toFixed(1).padStart(5);
    print(`${share} %  ${((micros * 1000) / rows).toFixed(0).padStart(5)} ns/row  ${name}`);
  }
}

/** A function of ours by its place; one of Node's or V8's by its name and the nearest of ours that called it. */
function nameNodes(nodes: readonly ProfileNode[]): Map<number, string> {
  const root = fileURLToPath(new URL('..', import.meta.url));
  const byId = new Map(nodes.map((node) => [node.id, node]));
  const names = new Map<number, string>();
  const visit = (node: ProfileNode, ours: string) => {
    const { functionName, url, lineNumber } = node.callFrame;
    let name = functionName === '' ? 'native code' : functionName;
    let caller = ours;
    if (url.startsWith('file:')) {
      name = `${functionName || '(closure)'} ${relative(root, fileURLToPath(url)).split(sep).join('/')}:${lineNumber + 1}`;
      caller = name;
    } else if (ours !== '') name = `${name} < ${ours}`;
    names.set(node.id, name);
    for (const id of node.children ?? []) visit(byId.get(id)!, caller);
  };
  visit(nodes[0]!, '');
  return names;
}

function print(line: string): void {
  process.stdout.write(`${line}\n`);
}
