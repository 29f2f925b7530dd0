import { functionFailureOf } from '@millrace/engine/transform/function-failure';
import { startFunctionPool } from '@millrace/engine/transform/function-pool';
import type { FunctionDefinition } from '@millrace/engine/transform/function-source';
import { createFunctionProcessor, type SinkFunctions } from '@millrace/engine/transform/functions';
import type { Processed, Processor } from '@millrace/engine/transform/processor';
import { afterAll, describe, expect, onTestFinished, test } from 'vitest';
import { batchOf, type MessageParts, messageText } from './function-messages.ts';

const pool = startFunctionPool({ threads: 1 });
afterAll(() => pool.close());

const never = new AbortController().signal;
const code = (type: 'filter' | 'transform' | 'routing', text: string): FunctionDefinition => ({
  name: `the-${type}`,
  type,
  code: text,
});

async function processor(functions: SinkFunctions): Promise<Processor> {
  const made = await createFunctionProcessor({ pool, functions });
  onTestFinished(() => made.close());
  return made;
}

/** All of them, however many turns it takes. */
async function processAll(of: Processor, texts: readonly string[]): Promise<Processed[]> {
  const batch = batchOf(texts);
  const all: Processed[] = [];
  while (all.length < texts.length) all.push(...(await of.process(batch, all.length, never)));
  return all;
}

async function one(functions: SinkFunctions, message: MessageParts | string): Promise<Processed> {
  const text = typeof message === 'string' ? message : messageText(message);
  return (await processAll(await processor(functions), [text]))[0]!;
}

function bodies(processed: Processed): unknown[] {
  if (processed.kind !== 'messages') throw new Error(`${processed.kind}: ${JSON.stringify(processed)}`);
  return processed.messages.map(({ body, json }) => (json ? JSON.parse(body.toString()) : body.toString()));
}

const transformed = async (text: string, message: MessageParts | string = {}) =>
  bodies(await one({ transform: code('transform', text) }, message));

async function failure(functions: SinkFunctions, message: MessageParts = {}) {
  const processed = await one(functions, message);
  if (processed.kind !== 'failed') throw new Error('it did not fail');
  return processed.error;
}

describe('a filter', () => {
  const filter = code('filter', '(action, record, changes) => record.price !== changes.price');

  test('lets messages pass byte for byte, and takes the others out', async () => {
    const pass = messageText({ record: { price: '4.99' }, changes: { price: '5.99' } }).replace('"4.99"', ' "4.99" ');
    const stay = messageText({ record: { price: '4.99' }, changes: { price: '4.99' } });
    const processed = await processAll(await processor({ filter }), [pass, stay, pass]);
    expect(processed.map(({ kind }) => kind)).toEqual(['messages', 'filtered', 'messages']);
    expect(processed[0]!.kind === 'messages' && processed[0]!.messages[0]!.body.toString()).toBe(pass);
    expect(processed[0]!.kind === 'messages' && processed[0]!.messages[0]!.route).toBeNull();
  });

  test.each(['undefined', '1', '"true"', 'null', '({})', 'Promise.resolve(true)'])(
    'that returns %s has failed on the message',
    async (value) => {
      const error = await failure({ filter: code('filter', `() => ${value}`) });
      expect(error.code).toBe('function_failed');
      expect(error.message).toContain('has to return true or false');
    },
  );
});

describe('a transform', () => {
  test('makes any JSON value of a message', async () => {
    const message = { record: { id: 7, name: 'Avocado' }, changes: null, action: 'insert' };
    expect(await transformed('(a, r) => ({ id: r.id, what: a })', message)).toEqual([{ id: 7, what: 'insert' }]);
    expect(await transformed('(a, r) => [r.id, null]', message)).toEqual([[7, null]]);
    expect(await transformed('() => 4.5')).toEqual([4.5]);
    expect(await transformed('() => false')).toEqual([false]);
    expect(await transformed('() => null')).toEqual([null]);
  });

  test('that returns a text sends it raw', async () => {
    const processed = await one({ transform: code('transform', '() => "a \\"b\\"\\nü\\u0000"') }, {});
    const [message] = processed.kind === 'messages' ? processed.messages : [];
    expect(message).toEqual({ body: Buffer.from('a "b"\nü\0'), json: false, route: null });
  });

  test('makes several messages, or none, with messages()', async () => {
    expect(
      await transformed('(a, r) => messages(r.tags.map((tag) => ({ tag })))', { record: { tags: [1, 2] } }),
    ).toEqual([{ tag: 1 }, { tag: 2 }]);
    expect(await transformed('() => messages(["x\\ny", [1]])')).toEqual(['x\ny', [1]]);
    expect(await transformed('() => messages([])')).toEqual([]);
    expect(await transformed('() => messages()')).toEqual([]);
  });

  test('gets the arguments in the order of Sequin', async () => {
    const message = { action: 'update', record: { a: 1 }, changes: { a: 0 }, metadata: { table_name: 't' } };
    const text =
      'function transform(action, record, changes, metadata) { return [action, record, changes, metadata.table_name]; }';
    expect(await transformed(text, message)).toEqual([['update', { a: 1 }, { a: 0 }, 't']]);
  });

  test('keeps integers beyond 2^53 exact, as bigint', async () => {
    const text = messageText({ record: { id: 1, deep: [{ id: 2 }], price: 1.5, text: '12345678901234567890' } })
      .replace('"id":1', '"id":9223372036854775807')
      .replace('"id":2', '"id":-9007199254740993');
    const made = await one({ transform: code('transform', '(a, r) => ({ ...r, kind: typeof r.id })') }, text);
    expect(made.kind === 'messages' && made.messages[0]!.body.toString()).toBe(
      '{"id":9223372036854775807,"deep":[{"id":-9007199254740993}],"price":1.5,"text":"12345678901234567890","kind":"bigint"}',
    );
    const raw = await one({ transform: code('transform', '(a, r) => JSON.stringify([r.id]) + `/${r.id}`') }, text);
    expect(bodies(raw)).toEqual(['[9223372036854775807]/9223372036854775807']);
  });

  test('has the clock and the chance of its message', async () => {
    const text = '() => [Date.now(), new Date().toISOString(), Date().slice(0, 24), Math.random(), Math.random()]';
    const message = messageText({});
    const [now, iso, date, first, second] = ((await transformed(text, message)) as unknown[][])[0]!;
    expect([now, iso, date]).toEqual([1_767_323_045_678, '2026-01-02T03:04:05.678Z', 'Fri Jan 02 2026 03:04:05']);
    expect(first).not.toBe(second);
    expect(((await transformed(text, message)) as unknown[][])[0]!.slice(3)).toEqual([first, second]);
    expect(((await transformed(text, messageText({}))) as unknown[][])[0]![3]).not.toBe(first);
  });

  test('has no time zone but UTC', async () => {
    const text = '(a, r) => [new Date(r.at).toISOString(), new Date(r.at).getHours(), new Date().getTimezoneOffset()]';
    const record = { at: '2026-07-02T03:04:05.000000' };
    expect(await transformed(text, { record })).toEqual([['2026-07-02T03:04:05.000Z', 3, 0]]);
  });
});

describe('a routing function', () => {
  test('gives each message its route; the message stays as it was', async () => {
    const routing = code(
      'routing',
      'function route(action, record, changes, metadata) { return { topic: metadata.table_name, x: undefined }; }',
    );
    const text = messageText({});
    const processed = await one({ routing }, text);
    expect(processed).toEqual({
      kind: 'messages',
      messages: [{ body: Buffer.from(text), json: true, route: { topic: 'products' } }],
    });
  });

  test('works with a filter before it and a transform after it, on every message made', async () => {
    const functions = {
      filter: code('filter', '(action, record) => record.n > 0'),
      routing: code('routing', '(action, record) => ({ key: `k${record.n}` })'),
      transform: code('transform', '(action, record) => messages(Array(record.n).fill(record.n))'),
    };
    const texts = [0, 1, 2].map((n) => messageText({ record: { n } }));
    const processed = await processAll(await processor(functions), texts);
    expect(
      processed.map((one) => (one.kind === 'messages' ? one.messages.map((m) => [String(m.body), m.route]) : one.kind)),
    ).toEqual([
      'filtered',
      [['1', { key: 'k1' }]],
      [
        ['2', { key: 'k2' }],
        ['2', { key: 'k2' }],
      ],
    ]);
  });

  test.each(['null', '"topic"', '[1]', 'undefined', 'messages([])', '() => 1'])(
    'that returns %s has failed',
    async (value) => {
      const error = await failure({ routing: code('routing', `() => (${value})`) });
      expect(error.code).toBe('function_failed');
      expect(error.message).toContain('has to return an object');
    },
  );
});

describe('a path', () => {
  const at = (path: string): SinkFunctions => ({ transform: { name: 'p', type: 'path', path } });
  const message = messageText({ record: { id: 1, a: { b: ['x"y', null] }, ü: 'z\n' } }).replace(
    '"id":1',
    '"id":9223372036854775807',
  );

  test.each([
    ['record.id', '9223372036854775807', true],
    ['record.a', '{"b":["x\\"y",null]}', true],
    ['record.a.b', '["x\\"y",null]', true],
    ['record.ü', 'z\n', false],
    ['action', 'update', false],
    ['metadata.table_name', 'products', false],
    ['record.none', 'null', true],
    ['record.a.b.c', 'null', true],
  ])('%s is %s', async (path, body, json) => {
    const processed = await one(at(path), message);
    expect(processed).toEqual({ kind: 'messages', messages: [{ body: Buffer.from(body), json, route: null }] });
  });

  test.each(['', 'table', 'record.', 'action.x', 'record..a'])('"%s" is refused', async (path) => {
    await expect(processor(at(path))).rejects.toMatchObject({ code: 'function_invalid' });
  });
});

describe('a function that fails', () => {
  test('is named with the line and column of its TypeScript, and its class; the text is for those who may see values', async () => {
    const text = [
      'interface Product {',
      '  name: string;',
      '}',
      'export function transform(action: string, record: Product): string {',
      '  throw new RangeError(`bad: ${record.name as string}`);',
      '}',
    ].join('\n');
    const transform = { ...code('transform', text), file: 'functions/products.ts' };
    const error = await failure({ transform }, { record: { name: 'secret' } });
    expect(error.message).toBe(
      'A function failed on a message. The transform function "the-transform" at functions/products.ts:5:23 (RangeError).',
    );
    expect(functionFailureOf(error)).toMatchObject({ message: 'RangeError: bad: secret', line: 5 });
    expect(`${error.message} ${error.hint}`).not.toContain('secret');
  });

  test('does not tell a value by the name of its error', async () => {
    const text = '(a, r) => { const e = new Error("x"); e.name = r.name; throw e; }';
    const error = await failure({ transform: code('transform', text) }, { record: { name: 'secret' } });
    expect(error.message).not.toContain('secret');
    const own = 'class NoStock extends Error { name = "NoStock"; } export default () => { throw new NoStock("x"); }';
    expect((await failure({ transform: code('transform', own) })).message).toContain('(NoStock)');
  });

  test('costs its message only', async () => {
    const transform = code('transform', '(a, r) => { if (r.n === 1) throw new Error(); return r.n; }');
    const texts = [0, 1, 2].map((n) => messageText({ record: { n } }));
    const processed = await processAll(await processor({ transform }), texts);
    expect(processed.map(({ kind }) => kind)).toEqual(['messages', 'failed', 'messages']);
  });
});

test('a message larger than the memory has failed; a large one that fits has not', async () => {
  const transform = code('transform', '(a, r) => r.text.length');
  const processed = await processAll(await processor({ transform }), [
    messageText({ record: { text: 'ü'.repeat(2_000_000) } }),
    messageText({ record: { text: 'x'.repeat(60_000_000) } }),
    messageText({ record: { text: 'y' } }),
  ]);
  expect(bodies(processed[0]!)).toEqual([2_000_000]);
  expect(processed[1]).toMatchObject({ kind: 'failed', error: { code: 'function_memory' } });
  expect(bodies(processed[2]!)).toEqual([1]);
});

test('a function gets the arguments that it can reach in any way', async () => {
  const message = { action: 'insert', record: { a: 1 }, changes: null, metadata: { table_name: 't' } };
  for (const text of [
    '(...all) => all[3].table_name',
    'export function transform() { return arguments[3].table_name; }',
    '(action, record = {}, changes, metadata) => metadata.table_name',
    'const f = (a, b, c, d) => d.table_name; export default f.bind(null);',
    '(action, record, changes, { table_name }) => table_name',
    'const wrap = (f) => (...args) => f(...args); export default wrap((a, b, c, d) => d.table_name);',
    'export default function () { return eval("argu" + "ments[3].table_name"); }',
  ]) {
    expect(await transformed(text, message), text).toEqual(['t']);
  }
});

test('a function that looks at single keys only gets these, unless it could see the others', async () => {
  const all = ['a', 'b', 'valueOf'];
  const message = { record: { a: 1, b: 2, valueOf: 3 } };
  const helper = 'function keys() { return Object.keys(this); } ';
  for (const [text, expected] of [
    ['export default (action, record) => [record.a, record?.b, record . valueOf, record.c ?? null];', [1, 2, 3, null]],
    [
      'export default (action, record) => { record.c = record.a; delete record.a; return [record.a ?? 0, record.c]; };',
      [0, 1],
    ],
    ['export default function record(action, record) { return Object.keys(record); }', all],
    ['export default (action, record) => { const { a, ...rest } = record; return ["a", ...Object.keys(rest)]; };', all],
    [`${helper} export default (action, record) => { record.a = keys; return record.a(); };`, all],
    [`${helper} export default (action, record) => { [record.a] = [keys]; return (record.a)(); };`, all],
    [`${helper} export default (action, record) => { record.a = keys; return ((record.a) ) ?.(); };`, all],
    [`${helper} export default (action, record) => { record.a = keys; return record.a /* (see) */ (); };`, all],
    [`${helper} export default (action, record) => { record.a = keys; return record.a\`\`; };`, all],
    [
      'export default (action, record) => { record.valueOf = Object.prototype.valueOf; return record.valueOf ? Object.keys(record) : 0; };',
      all,
    ],
    ['export default (action, record) => Object.keys(record.__proto__ === Object.prototype ? r\\u0065cord : {});', all],
    ['export default (action, record) => { const leak = () => record; return Object.keys(leak()); };', all],
    ['export default (action, record) => Object.keys([record][0]);', all],
    ['export default (action, record) => { for (const key in record) if (key === "b") return key; };', 'b'],
    ['export default (action, $r) => Object.keys($r);', all],
    ['export default (action, record) => eval("Object.keys(record)");', all],
    [
      'export default (action, record) => record.a.constructor === Number && "hasOwnProperty" in record && record.hasOwnProperty("b");',
      true,
    ],
  ] as const) {
    const made = (await transformed(text, message))[0];
    const keys = Array.isArray(made) && expected === all ? made.filter((key) => all.includes(key)).sort() : made;
    expect(keys, text).toEqual(expected);
  }
  // Another function of the sink sees what any of them does.
  const functions = {
    filter: code('filter', '(action, record) => record.a === 1'),
    transform: code('transform', '(action, record) => JSON.stringify(record)'),
  };
  expect(JSON.parse(bodies(await one(functions, message))[0] as string)).toEqual(message.record);
});

test("metadata is what JSON.parse would make of it, and nobody else's", async () => {
  const nested = { x: { enrichment: null, database_name: 'no' } };
  const database = { id: '1', name: 'shop', annotations: {}, database: 'shop', hostname: 'localhost' };
  const texts = [
    messageText({}),
    messageText({ metadata: { transaction_annotations: nested } }),
    messageText({ metadata: { enrichment: { a: 1 } } }),
    messageText({ metadata: { database: { ...database, annotations: { team: nested } } } }),
    messageText({
      metadata: { database: { ...database, name: 'other' }, consumer: { id: '9', name: 'c', annotations: {} } },
    }),
    messageText({ metadata: { more: 1 } }),
  ];
  // What a message does to it is not seen by the next one.
  const spoil = 'm.database.name = "spoilt"; m.consumer.annotations.spoilt = 1; m.database.annotations.spoilt = 1;';
  const transform = code('transform', `(a, r, c, m) => { const text = JSON.stringify(m); ${spoil} return text; }`);
  const processed = await processAll(await processor({ transform }), [...texts, ...texts]);
  expect(processed.map((one) => bodies(one)[0])).toEqual(
    [...texts, ...texts].map((text) => JSON.stringify(JSON.parse(text).metadata)),
  );
});

test('a thousand messages come out in their order', async () => {
  const transform = code('transform', '(a, r) => r.n % 3 ? messages([r.n, "x".repeat(500)]) : messages()');
  const texts = Array.from({ length: 1000 }, (_, n) => messageText({ record: { n } }));
  const processed = await processAll(await processor({ transform }), texts);
  expect(processed.map((one) => bodies(one)[0])).toEqual(texts.map((_, n) => (n % 3 ? n : undefined)));
});

test('a call that is given up ends with the reason of its signal', async () => {
  const made = await processor({ filter: code('filter', '() => { for (;;); }') });
  const giveUp = new AbortController();
  const running = made.process(batchOf([messageText({})]), 0, giveUp.signal);
  giveUp.abort(new Error('enough'));
  await expect(running).rejects.toThrow('enough');
});
