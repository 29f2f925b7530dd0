/** Functions tried and type-checked against a real database: through the management API and the command line. */
import { execFile } from 'node:child_process';
import { readFileSync, rmSync, symlinkSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { createDatabase, type TestDatabase, testDirectory } from '@millrace/testkit/postgres';
import { afterAll, beforeAll, describe, expect, test } from 'vitest';
import { parse, stringify } from 'yaml';
import { configText, type Millrace, startMillrace } from './millrace.ts';

const FILTER =
  'function filter(action, record, changes, metadata) {\n  return action === "update" && Number(record.price) < Number(changes.price);\n}';
const functions = [
  { name: 'price-drops', type: 'filter', code: FILTER },
  {
    name: 'by-kind',
    type: 'routing',
    sink_type: 's2',
    code: '(action, record, changes, metadata) => ({ stream: `${metadata.table_name}-${action}` })',
  },
  { name: 'short', type: 'transform', code: 'export default (action, record) => ({ id: record.id })' },
  {
    name: 'loud',
    type: 'enrichment',
    code: 'SELECT id, upper(name) AS name FROM products WHERE id = ANY($1)',
  },
];
const SCHEMA = `
  CREATE TYPE size AS ENUM ('small', 'large');
  CREATE TABLE products (id bigint PRIMARY KEY, name text NOT NULL, price numeric, size size, tags text[], "odd name" jsonb);
  ALTER TABLE products REPLICA IDENTITY FULL;
  CREATE TABLE orders (id int PRIMARY KEY, product bigint NOT NULL, at timestamptz NOT NULL, paid bool);`;

let db: TestDatabase;
let millrace: Millrace;
let dir: string;
let configFile: string;

beforeAll(async () => {
  db = await createDatabase();
  await db.sql(SCHEMA);
  const sinks = [
    {
      name: 'drops',
      source: { include_tables: ['products'] },
      filter: 'price-drops',
      routing: 'by-kind',
      enrichment: 'loud',
    },
    { name: 'all', transform: 'short', function_limits: { call_ms: 150 } },
  ];
  const options = { sinks, functions };
  dir = testDirectory('functions');
  configFile = join(dir, 'millrace.yaml');
  writeFileSync(configFile, configText(db, options));
  // The TypeScript of the project that the functions are in.
  symlinkSync(join(import.meta.dirname, '../../node_modules'), join(dir, 'node_modules'));
  millrace = await startMillrace(db, options);
  await db.sql(`INSERT INTO products VALUES (9007199254740993, 'Avocado', 5.99, 'small', '{a,b}', NULL)`);
  await db.sql('UPDATE products SET price = 4.99');
  await db.sql(`INSERT INTO orders VALUES (1, 9007199254740993, '2026-01-02 03:04:05Z', true)`);
  await millrace.atLeast(3, 'all');
}, 60_000);

afterAll(async () => {
  await millrace?.remove();
  await db?.drop();
  rmSync(dir, { recursive: true, force: true });
});

async function ask(name: string, body: object) {
  const answer = await fetch(`${millrace.server.url}/api/functions/${name}/test`, {
    method: 'POST',
    headers: { authorization: `Bearer ${millrace.server.firstRootToken}`, 'content-type': 'application/json' },
    body: JSON.stringify(body),
  });
  // biome-ignore lint/suspicious/noExplicitAny: the shape is what is tested.
  return { status: answer.status, body: (await answer.json()) as any };
}

function run(...args: string[]): Promise<{ code: number; stdout: string; stderr: string }> {
  const bin = join(import.meta.dirname, '../../packages/cli/bin/millrace.js');
  const env = {
    ...process.env,
    MILLRACE_ENDPOINT: millrace.server.url,
    S2_ACCESS_TOKEN: millrace.server.firstRootToken!,
    NO_COLOR: '1',
  };
  return new Promise((resolve) =>
    execFile(process.execPath, [bin, ...args], { env }, (error, stdout, stderr) =>
      resolve({ code: Number(error?.code ?? 0), stdout, stderr }),
    ),
  );
}

describe('POST /api/functions/{name}/test', () => {
  test('tries a filter on the newest captured messages of its sink, without moving the sink', async () => {
    const { status, body } = await ask('price-drops', {});
    expect({ status, ...body }).toMatchObject({ status: 200, messages: 'captured', sink: 'drops', type: 'filter' });
    expect(body.results.map((one: { outcome: string }) => one.outcome)).toEqual(['filtered', 'passed']);
    expect(body.results[1].input).toMatchObject({
      record: { name: 'Avocado', price: '4.99' },
      changes: { price: '5.99' },
    });
  });

  test('shows the route that a routing function returned, and where the sink sends it', async () => {
    const { body } = await ask('by-kind', { count: 1 });
    expect(body.results).toMatchObject([
      { outcome: 'routed', route: { stream: 'products-update' }, resolved_route: 'test-basin/products-update' },
    ]);
    const wrong = await ask('by-kind', { count: 1, code: '() => ({ topic: "x" })' });
    expect(wrong.body.results).toMatchObject([{ outcome: 'failed', error: { code: 'sink_route_invalid' } }]);
  });

  test('takes messages of one table, given ones, made-up ones, and code that is not applied', async () => {
    const table = await ask('short', { table: 'orders' });
    expect(table.body.results).toMatchObject([{ outcome: 'made', output: [{ body: { id: 1 }, json: true }] }]);
    const given = await ask('short', {
      messages: [{ action: 'insert', record: { id: 7 }, changes: null, metadata: {} }],
    });
    expect(given.body.results).toMatchObject([{ output: [{ body: { id: 7 } }] }]);
    const synthetic = await ask('short', {
      synthetic: true,
      table: 'products',
      code: '(action, record) => Object.keys(record)',
    });
    expect(synthetic.body.messages).toBe('synthetic');
    expect(synthetic.body.results[0].output[0].body).toEqual(['id', 'name', 'price', 'size', 'tags', 'odd name']);
    const thrown = await ask('new', {
      type: 'transform',
      code: '(action, record) => {\n  throw new Error(record.name);\n}',
      count: 1,
      table: 'products',
    });
    expect(thrown.body.results[0]).toMatchObject({
      outcome: 'failed',
      error: { code: 'function_failed', text: 'Error: Avocado', line: 2 },
    });
    expect(thrown.body.results[0].error.summary).not.toContain('Avocado');
    const endless = await ask('short', { code: '() => { for (;;); }', count: 1 });
    expect(endless.body.results).toMatchObject([
      { error: { code: 'function_timeout', summary: expect.stringContaining('longer than 150 ms') } },
    ]);
    // Once: it is no text of its author's.
    expect(endless.body.results[0].error).not.toHaveProperty('text');
  });

  test("asks the source for the sink's enrichment, in front of the function", async () => {
    const enriched = { metadata: { table_name: 'products', enrichment: { name: 'AVOCADO' } } };
    const filter = await ask('price-drops', { count: 1 });
    expect(filter.body.results).toMatchObject([{ input: enriched, outcome: 'passed' }]);
    expect(filter.body.results[0].enrichment_micros).toBeGreaterThan(0);
    const without = await ask('price-drops', { count: 1, enrichment: false });
    expect(without.body.results).toMatchObject([{ input: { metadata: { enrichment: null } } }]);
  });

  test('tries an enrichment by itself, and shows what Postgres says of its SQL', async () => {
    const { body } = await ask('loud', { count: 2 });
    const metadata = { enrichment: { name: 'AVOCADO' } };
    expect(body).toMatchObject({ type: 'enrichment', messages: 'captured', sink: 'drops' });
    expect(body.results).toMatchObject([
      { outcome: 'enriched', output: [{ body: { action: 'insert', metadata }, json: true }] },
      { outcome: 'enriched', output: [{ body: { action: 'update', metadata }, json: true }] },
    ]);
    expect(body.results[0].micros).toBeGreaterThan(0);
    const missing = await ask('loud', { count: 2, code: 'SELECT id FROM nowhere' });
    expect(missing.body.results).toMatchObject([
      { outcome: 'failed', error: { code: 'enrichment_failed', summary: expect.stringContaining('nowhere') } },
      { outcome: 'failed', error: { code: 'enrichment_failed' } },
    ]);
    const twice = 'SELECT id FROM products, generate_series(1, 2) WHERE id = ANY($1)';
    const several = await ask('new', { type: 'enrichment', code: twice, sink: 'drops', count: 1 });
    expect(several.body.results[0].error.summary).toContain('2 rows for one message');
  });

  test('counts what the functions of a sink do where they run, not where they are tried', async () => {
    let text = '';
    const of = (name: string) =>
      Object.fromEntries(
        [...text.matchAll(new RegExp(`^${name}\\{database="[^"]+",sink="(\\w+)",([^}]+)\\} (.+)$`, 'gm'))].map(
          ([, sink, labels, value]) => [`${sink} ${labels!.replaceAll('"', '')}`, Number(value)],
        ),
      );
    const calls = async () => {
      text = await (await fetch(`${millrace.server.url}/metrics`)).text();
      return of('millrace_sink_function_calls_total');
    };
    await expect.poll(calls, { timeout: 30_000 }).toEqual({
      'drops function=price-drops,type=filter': 2,
      'drops function=by-kind,type=routing': 1,
      'drops function=loud,type=enrichment': expect.any(Number),
      'all function=short,type=transform': 3,
    });
    expect(of('millrace_sink_function_errors_total')).toEqual({});
    expect(of('millrace_sink_function_killed_total')['drops function=price-drops,type=filter,limit=time']).toBe(0);
    const seconds = of('millrace_sink_function_seconds_total');
    expect(Object.keys(seconds).sort()).toEqual(['all stage=code', 'drops stage=code', 'drops stage=enrichment']);
    for (const value of Object.values(seconds)) expect(value).toBeGreaterThan(0);
  });

  test('refuses what cannot be tried', async () => {
    const named = (text: RegExp) => ({ status: 404, body: { summary: expect.stringMatching(text) } });
    expect(await ask('none', {})).toMatchObject(named(/No function "none"\. There is: .*short/));
    expect(await ask('short', { sink: 'none' })).toMatchObject(named(/No sink "none"\. There is: .*drops/));
    expect(await ask('short', { count: 1000 })).toMatchObject({ status: 422 });
    expect(await ask('short', { code: '(a, b' })).toMatchObject({ status: 422, body: { code: 'function_invalid' } });
  });
});

describe('millrace function', () => {
  test('lists the functions of a file', async () => {
    const { stdout } = await run('function', 'list', '--config', configFile);
    expect(stdout).toBe('price-drops  filter\nby-kind      routing\nshort        transform\nloud         enrichment\n');
  }, 60_000);

  test('tries the code of a file on captured messages', async () => {
    const edited = parse(readFileSync(configFile, 'utf8'));
    edited.functions[2].code = '(action, record) => messages([record.id, action])';
    const other = join(dir, 'edited.yaml');
    writeFileSync(other, stringify(edited));
    const { code, stdout } = await run(
      'function',
      'test',
      'short',
      '--config',
      other,
      '--table',
      'products',
      '-n',
      '1',
    );
    expect(code).toBe(0);
    expect(stdout).toContain('short (transform) on 1 captured message of sink all');
    expect(stdout).toContain('out:   9007199254740993');
    expect(stdout).toContain('out:   update');
  }, 60_000);

  test('fails where there is nothing to try it on, and names what there is for one that is not', async () => {
    const nothing = await run('function', 'test', 'short', '--table', 'nope');
    expect(nothing).toMatchObject({ code: 1, stderr: expect.stringMatching(/no messages of a table "nope"/) });
    const unknown = await run('function', 'test', 'nope');
    expect(unknown).toMatchObject({ code: 1, stderr: expect.stringMatching(/No function "nope"\. There is: /) });
    expect(unknown.stderr).not.toContain('applied');
  }, 60_000);

  test("asks a file's own database for the enrichment, without a server", async () => {
    const { body } = await ask('price-drops', { count: 1, enrichment: false });
    const messages = join(dir, 'messages.jsonl');
    writeFileSync(messages, JSON.stringify([body.results[0].input]));
    const { code, stdout } = await run('function', 'test', 'loud', '--config', configFile, '--messages', messages);
    expect(stdout).toContain('loud (enrichment) on 1 given message');
    expect(stdout).toContain('"name":"AVOCADO"');
    expect(code).toBe(0);
  }, 60_000);
});

describe('millrace types', () => {
  const check = (file: string) => run('types', '--check', '--json', '--config', file);

  async function problemsOf(changed: (functions: { name: string; type: string; code: string }[]) => void) {
    const config = parse(readFileSync(configFile, 'utf8'));
    changed(config.functions);
    const file = join(dir, 'checked.yaml');
    writeFileSync(file, stringify(config));
    const { stdout, stderr } = await check(file);
    expect(stderr).not.toContain('could not');
    return JSON.parse(stdout);
  }

  test('writes what the tables hold', async () => {
    const { stdout } = await run('types', '--config', configFile);
    expect(stdout).toContain(
      [
        'interface ProductsRecord {',
        '  id: Int8;',
        '  name: string;',
        '  price: string | null;',
        "  size: 'small' | 'large' | null;",
        '  tags: (string | null)[] | null;',
        "  'odd name': Json | null;",
        '}',
      ].join('\n'),
    );
    expect(stdout).toContain('interface OrdersDeleted {\n  id: number;\n  product: Int8 | null;');
  }, 60_000);

  test('finds nothing wrong with functions that are right', async () => {
    expect(await problemsOf(() => {})).toEqual([]);
  }, 60_000);

  test("finds a column that is not there, by the user's line and column, in a file and in the configuration", async () => {
    const config = parse(readFileSync(configFile, 'utf8'));
    const [drops, kind, short] = config.functions;
    writeFileSync(
      join(dir, 'drops.ts'),
      `// Of products.\n${FILTER.replace('Number(record.price)', 'Number(record.prize)')}`,
    );
    delete drops.code;
    drops.file = 'drops.ts';
    kind.code = '(action, record, changes, metadata) => ({\n  strem: metadata.table_name })\n';
    short.code = 'function transform(action, record) {\n  const { id } = record;\n  return [id, record.idd];\n}\n';
    const file = join(dir, 'checked.yaml');
    const text = stringify(config);
    writeFileSync(file, text);
    const { stdout, code } = await run('types', '--check', '--config', file);
    const lineOf = (part: string) => text.split('\n').findIndex((line) => line.includes(part)) + 1;
    const lines = stdout.trimEnd().split('\n');
    expect(code).toBe(1);
    expect(lines[0]).toContain("price-drops: drops.ts:3:47: TS2551: Property 'prize' does not exist");
    const route = `${lineOf('=> ({')}:${text.split('\n')[lineOf('=> ({') - 1]!.indexOf('(action') + 1}`;
    expect(lines.find((line) => line.includes('by-kind'))).toContain(`by-kind: ${file}:${route}: TS`);
    const id = text.split('\n')[lineOf('record.idd') - 1]!.indexOf('idd') + 1;
    expect(lines.find((line) => line.includes("'idd' does not exist"))).toContain(
      `short: ${file}:${lineOf('record.idd')}:${id}: TS2339`,
    );
  }, 60_000);

  test('knows what an action means for a record and its changes', async () => {
    const problems = await problemsOf((all) => {
      all[0]!.code =
        'export function filter(action, record, changes, metadata) {\n  return changes.price !== record.price;\n}';
      all[2]!.code = '(action: string, record: ProductsRecord) => record.name.length + record.id';
    });
    expect(
      problems.map(({ name, line, text }: { name: string; line: number; text: string }) => [
        name,
        line,
        text.slice(0, 6),
      ]),
    ).toEqual([
      ['price-drops', 2, 'TS1804'],
      ['short', 1, 'TS2365'],
    ]);
  }, 60_000);
});
