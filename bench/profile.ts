/**
 * Where the time goes: drains a backlog with one client under V8's profiler and prints the functions by self time.
 *
 *   node bench/profile.ts [--client change-log|stream|framing] [--table small|one|big] [--scale 1] [--top 25]
 *                         [--keep FILE.cpuprofile]
 */
import { copyFileSync, readFileSync } from 'node:fs';
import { join, relative, sep } from 'node:path';
import { fileURLToPath } from 'node:url';
import { parseArgs } from 'node:util';
import { PUBLICATION, TABLES } from './backlog.ts';
import { PROFILE_VARIABLE } from './clients/client.ts';
import { drainOnce, type TableName, withBacklog } from './drains.ts';
import { runSession } from './life.ts';

interface Profile {
  readonly nodes: readonly {
    readonly id: number;
    readonly callFrame: { readonly functionName: string; readonly url: string; readonly lineNumber: number };
  }[];
  readonly samples: readonly number[];
  readonly timeDeltas: readonly number[];
}

const CLIENTS = ['framing', 'change-log', 'stream'] as const;

const { values } = parseArgs({
  options: {
    client: { type: 'string', default: 'stream' },
    table: { type: 'string', default: 'small' },
    scale: { type: 'string', default: '1' },
    top: { type: 'string', default: '25' },
    keep: { type: 'string' },
  },
});

const client = CLIENTS.find((name) => name === values.client);
if (client === undefined || !Object.hasOwn(TABLES, values.table)) {
  process.stderr.write(
    `bench: --client is one of ${CLIENTS.join(', ')}; --table of ${Object.keys(TABLES).join(', ')}\n`,
  );
  process.exit(2);
}
const table = TABLES[values.table as TableName];

await runSession({ runs: 1, scale: Number(values.scale) }, async (session) => {
  const rows = session.rows(table.rows, table.rowsPerTransaction);
  await withBacklog(session, table, rows, async (database, endLsn) => {
    const input = { connection: database.connection, publication: PUBLICATION, rows, endLsn, recvlogical: null };
    await drainOnce(session, database, 'framing', input);
    const plain = await drainOnce(session, database, client, input);
    await session.withDirectory(async (dir) => {
      const file = join(dir, 'drain.cpuprofile');
      const { seconds, result } = await drainOnce(session, database, client, input, { [PROFILE_VARIABLE]: file });
      if (values.keep !== undefined) copyFileSync(file, values.keep);
      const cpu = (used: number) => `${((used * 1e6) / rows).toFixed(2)} CPU s per million rows`;
      print(
        `${client}, ${rows} rows of "${table.name}": ${rate(rows, plain.seconds)}, ${cpu(plain.result.cpuSeconds)}; ` +
          `under the profiler ${rate(rows, seconds)}, ${cpu(result.cpuSeconds)}`,
      );
      printTop(JSON.parse(readFileSync(file, 'utf8')) as Profile, Number(values.top), rows);
    });
  });
});

function rate(rows: number, seconds: number): string {
  return `${Math.round(rows / seconds / 1000)} k rows/s`;
}

function printTop({ nodes, samples, timeDeltas }: Profile, count: number, rows: number): void {
  const names = new Map(nodes.map((node) => [node.id, nameOf(node.callFrame)]));
  const self = new Map<string, number>();
  let busy = 0;
  for (let i = 0; i < samples.length; i++) {
    const name = names.get(samples[i]!)!;
    const micros = timeDeltas[i]!;
    if (name === '(idle)') continue;
    busy += micros;
    self.set(name, (self.get(name) ?? 0) + micros);
  }
  print(`main thread busy ${(busy / 1e6).toFixed(2)} s; self time by function:`);
  const sorted = [...self].sort((a, b) => b[1] - a[1]).slice(0, count);
  for (const [name, micros] of sorted) {
    const share = ((micros * 100) / busy).toFixed(1).padStart(5);
    print(`${share} %  ${((micros * 1000) / rows).toFixed(0).padStart(5)} ns/row  ${name}`);
  }
}

function nameOf({ functionName, url, lineNumber }: Profile['nodes'][number]['callFrame']): string {
  const name = functionName === '' ? '(anonymous)' : functionName;
  if (url === '') return name;
  const root = fileURLToPath(new URL('..', import.meta.url));
  const file = url.startsWith('file:') ? relative(root, fileURLToPath(url)).split(sep).join('/') : url;
  return `${name}  ${file}:${lineNumber + 1}`;
}

function print(line: string): void {
  process.stdout.write(`${line}\n`);
}
