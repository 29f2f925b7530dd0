/** Code that means harm, or does it by accident: it costs its own sink some time, and nobody anything else. */
import { functionFailureOf } from '@millrace/engine/transform/function-failure';
import { FunctionMeters } from '@millrace/engine/transform/function-meter';
import { startFunctionPool } from '@millrace/engine/transform/function-pool';
import { createFunctionProcessor } from '@millrace/engine/transform/functions';
import type { Processed, Processor } from '@millrace/engine/transform/processor';
import { afterAll, beforeAll, describe, expect, onTestFinished, test } from 'vitest';
import { batchOf, messageText } from './function-messages.ts';

// One thread: whatever one sink does to it, the other has to live with.
const pool = startFunctionPool({ threads: 1 });
let good: Processor;
beforeAll(async () => {
  const transform = { name: 'good', type: 'transform', code: '(action, record) => record.n + 1' } as const;
  good = await createFunctionProcessor({ pool, functions: { transform } });
});
afterAll(() => pool.close());

const LIMITS = { callMs: 100, batchMs: 100, memoryBytes: 20 * 1_048_576, resultBytes: 1_048_576 };
const never = new AbortController().signal;

async function sink(code: string, limits = LIMITS): Promise<Processor> {
  const transform = { name: 't', type: 'transform', code } as const;
  const made = await createFunctionProcessor({ pool, functions: { transform }, limits });
  onTestFinished(() => made.close());
  return made;
}

async function run(of: Processor, record: Record<string, unknown> = {}): Promise<Processed> {
  return (await of.process(batchOf([messageText({ record })]), 0, never))[0]!;
}

const outcome = async (code: string) => readable(await run(await sink(code)));

function readable(processed: Processed) {
  if (processed.kind === 'failed') return processed.error.code;
  if (processed.kind === 'filtered') return processed.kind;
  const { body, json } = processed.messages[0]!;
  return json ? JSON.parse(body.toString()) : body.toString();
}

const answers = async (of: Processor) => {
  expect(await run(of, { n: 1 })).toMatchObject({ messages: [{ body: Buffer.from('2') }] });
};

describe('a function that does not end', () => {
  test.each([
    ['a loop', '() => { for (;;); }'],
    ['a loop in a microtask', '() => { Promise.resolve().then(() => { for (;;); }); return 1; }'],
    ['microtasks without end', '() => { const f = () => Promise.resolve().then(f); f(); return 1; }'],
    ['a loop in toJSON', '() => ({ toJSON() { for (;;); } })'],
    ['a loop in a getter', '() => ({ get a() { for (;;); } })'],
    ['a loop in a proxy', '() => new Proxy({}, { ownKeys() { for (;;); } })'],
    ['a loop in a thrown value', '() => { throw { toString() { for (;;); } }; }'],
    ['a loop that catches', '() => { for (;;) try { for (;;); } catch {} }'],
    ['a loop that cleans up', '() => { for (;;) try { for (;;); } finally { continue; } }'],
    ['an expression that backtracks', '() => /^(a+)+$/.test("a".repeat(50) + "b")'],
    ['a generator', '() => [...(function* () { for (;;) yield 0; })()].length'],
    ['sorting with a loop', '() => [3, 2, 1].sort(() => { for (;;); })'],
  ])('is cut off: %s', async (_, code) => {
    expect(await outcome(code)).toMatch(/^function_(timeout|memory)$/);
    await answers(good);
  });

  test('works again on the next message', async () => {
    const of = await sink('(action, record) => { while (record.n === 0); return record.n; }');
    const processed = await of.process(batchOf([0].map((n) => messageText({ record: { n } }))), 0, never);
    expect(processed).toMatchObject([{ kind: 'failed', error: { code: 'function_timeout' } }]);
    expect(await run(of, { n: 5 })).toMatchObject({ messages: [{ body: Buffer.from('5') }] });
  });

  test('holds up the sinks beside it once, and runs apart from then on', async () => {
    const bad = await sink('() => { for (;;); }');
    expect(await run(bad)).toMatchObject({ error: { code: 'function_timeout' } });
    const ended: string[] = [];
    await Promise.all([run(bad).then(() => ended.push('bad')), run(good, { n: 1 }).then(() => ended.push('good'))]);
    expect(ended).toEqual(['good', 'bad']);
  });

  test('gets a tenth of a core when it does nothing else, with all others like it, and the sinks beside it do not wait', async () => {
    const limits = { ...LIMITS, callMs: 30 };
    const [one, other] = [await sink('() => { for (;;); }', limits), await sink('() => { for (;;); }', limits)];
    for (const bad of [one, other]) for (let runs = 0; runs < 3; runs++) await run(bad);
    const begunAt = performance.now();
    const rested = Promise.all([run(one), run(other), run(one)]);
    await answers(good);
    expect(await rested).toMatchObject(Array(3).fill({ error: { code: 'function_timeout' } }));
    // Two rests between them, each nine times as long as the run before.
    expect(performance.now() - begunAt).toBeGreaterThan(2 * 9 * 30);
    // And goes at once when it is stopped meanwhile.
    const stopping = new AbortController();
    const waiting = one.process(batchOf([messageText({ record: {} })]), 0, stopping.signal);
    stopping.abort(new Error('stopped'));
    await expect(waiting).rejects.toThrow('stopped');
  });

  test('cannot be loaded when it does so at its top level', async () => {
    await expect(sink('for (;;);\nexport default () => 1')).rejects.toMatchObject({ code: 'function_invalid' });
  });

  test('is ended with its thread where nothing can interrupt it, and the sinks beside it go on', async () => {
    const code = `(action, record) => {
      if (record.n === 2) Array.prototype.includes.call({ length: 2 ** 53 - 1 }, 1);
      return record.n;
    }`;
    const before = pool.replaced;
    const bad = await sink(code);
    const texts = [0, 1, 2, 3].map((n) => messageText({ record: { n } }));
    const [processed] = await Promise.all([bad.process(batchOf(texts), 0, never), answers(good)]);
    expect(pool.replaced).toBe(before + 1);
    expect(processed).toMatchObject([
      { messages: [{ body: Buffer.from('0') }] },
      { messages: [{ body: Buffer.from('1') }] },
      { kind: 'failed', error: { code: 'function_timeout' } },
    ]);
    await answers(good);
    expect(await run(bad, { n: 3 })).toMatchObject({ messages: [{ body: Buffer.from('3') }] });
  }, 60_000);
});

describe('a function that wants all memory', () => {
  test.each([
    ['a large array', '() => new Array(50_000_000).fill(1).length'],
    ['a large text', '() => "x".repeat(2 ** 28)'],
    ['a text that doubles', '() => { let s = "xy"; for (;;) s += s; }'],
    ['a large buffer', '() => new Uint8Array(1e9).length'],
    ['buffers', '() => { const all = []; for (;;) all.push(new ArrayBuffer(1_000_000)); }'],
    ['a large result', '() => { const a = "x".repeat(1e6); return [a, a, a, a, a, a, a, a, a, a, a, a, a, a, a, a]; }'],
    ['a map', '() => { const all = new Map(); for (let i = 0; ; i++) all.set(i, "x".repeat(10_000) + i); }'],
  ])('is cut off: %s', async (_, code) => {
    expect(await outcome(code)).toMatch(/^function_(memory|failed)$/);
    await answers(good);
  });

  test('is not charged with what it left behind before', async () => {
    const of = await sink('const all = []; export default () => all.push("x".repeat(2e6) + Math.random());');
    const sizes: number[] = [];
    for (let i = 0; i < 12; i++) sizes.push(Number(String(bodyOf(await run(of)))));
    // It started anew in between.
    expect(Math.max(...sizes)).toBeLessThan(12);
    expect(sizes.filter((size) => size === 1).length).toBeGreaterThan(1);
  });

  test('gets no more out than its limit', async () => {
    const processed = await run(await sink('() => ["x".repeat(1e6), "y".repeat(1e5)]'));
    expect(processed).toMatchObject({ kind: 'failed', error: { code: 'function_failed' } });
    expect(processed.kind === 'failed' && processed.error.message).toContain('1048576 is the limit');
  });
});

test('a result of 50 MB costs its message and its sink, not the sink beside it', async () => {
  const meters = new FunctionMeters();
  const meter = meters.open('shop', 'huge', [{ name: 't', type: 'transform' }]);
  const text = '(action, record) => (record.huge ? "x".repeat(50_000_000) : record.n)';
  const transform = { name: 't', type: 'transform', code: text } as const;
  const huge = await createFunctionProcessor({ pool, functions: { transform }, meter });
  onTestFinished(() => huge.close());
  const texts = [{ n: 1 }, { huge: true }, { n: 3 }].map((record) => messageText({ record }));
  const { replaced } = pool;
  const beside = run(good, { n: 1 });
  const processed: Processed[] = [];
  while (processed.length < 3) processed.push(...(await huge.process(batchOf(texts), processed.length, never)));
  // Which of the limits it runs into first depends on the machine.
  expect(processed.map(readable)).toEqual([1, expect.stringMatching(/^function_(failed|memory|timeout)$/), 3]);
  expect(readable(await beside)).toBe(2);
  await answers(good);
  expect(pool.replaced).toBe(replaced);
  const [counts] = meters.read();
  const code = readable(processed[1]!);
  expect(counts).toMatchObject({ calls: 3, errors: new Map([[code, 1]]) });
  expect(counts!.killed).toEqual({
    time: Number(code === 'function_timeout'),
    memory: Number(code === 'function_memory'),
  });
});

test('the limits of one sink are its own', async () => {
  const loop = '() => { for (let i = 0; i < 1e7; i++); return 1; }';
  const short = await sink(loop, { ...LIMITS, callMs: 20 });
  expect(readable(await run(short))).toBe('function_timeout');
  const long = await sink(loop, { ...LIMITS, callMs: 60_000 });
  expect(readable(await run(long))).toBe(1);
  const fill = '() => { const all = []; for (let i = 0; i < 2e5; i++) all.push({ i }); return all.length; }';
  expect(readable(await run(await sink(fill, { ...LIMITS, callMs: 60_000 })))).toBe('function_memory');
  const room = { ...LIMITS, callMs: 60_000, memoryBytes: 64 * 1_048_576 };
  expect(readable(await run(await sink(fill, room)))).toBe(200_000);
  // A turn ends after the message that the time of the batch ran out with.
  const slow = '() => { for (let i = 0; i < 3e5; i++); return 1; }';
  const texts = Array.from({ length: 20 }, () => messageText({}));
  const turns = await sink(slow, { ...LIMITS, callMs: 60_000, batchMs: 10 });
  const first = await turns.process(batchOf(texts), 0, never);
  expect(first.length).toBeLessThan(20);
  const patient = await sink(slow, { ...LIMITS, callMs: 60_000, batchMs: 60_000 });
  expect((await patient.process(batchOf(texts), 0, never)).length).toBe(20);
});

describe('a function that goes too deep', () => {
  test.each([
    ['calls', '() => { const f = () => f() + 1; return f(); }'],
    ['objects', '() => { const o = { toJSON: () => ({ a: o }) }; return o; }'],
    ['parsing', '() => JSON.parse("[".repeat(100_000))'],
    ['an expression', '() => new RegExp("(".repeat(20_000) + ")".repeat(20_000)).test("a")'],
    ['code', '() => new Function("return " + "[".repeat(100_000) + "]".repeat(100_000))()'],
  ])('has failed: %s', async (_, code) => {
    expect(await outcome(code)).toMatch(/^function_(failed|memory|timeout)$/);
    await answers(good);
  });
});

/** Each in a function of its own, in one sandbox. */
async function each(kind: 'return' | 'run', codes: readonly string[]): Promise<Map<string, unknown>> {
  const cases = codes.map((code) => `(action, record) => { ${kind === 'return' ? `return ${code}` : code}; }`);
  const of = await sink(
    `const cases = [${cases.join(',\n')}];\nexport default (action, record) => cases[record.n](action, record);`,
  );
  const batch = batchOf(codes.map((_, n) => messageText({ record: { n } })));
  const all: Processed[] = [];
  while (all.length < codes.length) all.push(...(await of.process(batch, all.length, never)));
  return new Map(codes.map((code, i) => [code, readable(all[i]!)]));
}

describe('the outside', () => {
  test('is not there, whatever way is tried', async () => {
    const tried = await each('return', [
      'typeof process',
      'typeof require',
      'typeof globalThis.fetch',
      'typeof setTimeout',
      'typeof console',
      'typeof WebAssembly',
      'typeof Worker',
      'typeof std',
      'typeof os',
      'typeof Atomics',
      'typeof WeakRef',
      'this.constructor.constructor("return typeof process")()',
      '(() => {}).constructor("return typeof process")()',
      '(async () => {}).constructor("return 1").constructor("return typeof process")()',
      'Object.getPrototypeOf(function* () {}).constructor("yield typeof process")().next().value',
      'Reflect.construct(Function, ["return typeof process"])()',
      'messages([]).constructor.constructor("return typeof process")()',
      'Date.constructor("return typeof process")()',
      'JSON.stringify.constructor("return typeof process")()',
      'eval("typeof process")',
      '(0, eval)("typeof process")',
      'new Error().constructor.constructor("return typeof process")()',
      '(() => { try { null.x } catch (e) { return e.constructor.constructor("return typeof process")() } })()',
    ]);
    for (const [code, value] of tried) expect(value, code).toMatch(/^(undefined|function_failed)$/);
    expect([...tried.values()].filter((value) => value === 'undefined').length).toBeGreaterThan(15);
  });

  test('cannot be imported', async () => {
    await expect(sink('import fs from "fs"; export default () => fs;')).rejects.toMatchObject({
      code: 'function_invalid',
    });
    expect(await outcome('() => import("fs")')).toBe('function_failed');
  });
});

const SHARED_STATEMENTS = [
  'Object.prototype.evil = 1',
  'Object.prototype.toString = () => "evil"',
  'Array.prototype.map = () => ["evil"]',
  'Array.prototype.push = function () {}',
  'String.prototype.startsWith = () => true',
  'JSON.parse = () => ({ record: { n: "evil" } })',
  'JSON.stringify = () => "evil"',
  'globalThis.JSON = {}',
  'globalThis.Promise = 1',
  'globalThis.evil = 1',
  'Object.defineProperty(Object.prototype, "evil", { get: () => 1 })',
  'Object.setPrototypeOf(Object.prototype, { evil: 1 })',
  'Object.setPrototypeOf(Array.prototype, null)',
  '({}).__proto__.evil = 1',
  'record.constructor.prototype.evil = 1',
  '(function* () {}).constructor.prototype.evil = 1',
  '[][Symbol.iterator]().__proto__.next = () => ({ done: true })',
  'Object.getPrototypeOf(Uint8Array).prototype.evil = 1',
  'Date.now = () => 0',
  'Date.prototype.getTime = () => 0',
  'Math.random = () => 0',
  'RegExp.prototype.exec = () => null',
  'BigInt.prototype.toJSON = () => "evil"',
  'Function.prototype.call = () => "evil"',
  'Error.prototype.message = "evil"',
  'Symbol.prototype.evil = 1',
  'Promise.prototype.then = 1',
  'messages.evil = 1',
  'Object.getPrototypeOf(messages([])).evil = 1',
  'Iterator.prototype.map = () => 1',
];
const PROBE = `[typeof {}.evil, typeof globalThis.evil, [1].map((x) => x + 1)[0], JSON.stringify({ a: 1n }), Date.now(),
  [...[7]][0], "ab".startsWith("b"), JSON.parse("[2]")[0], \`\${{}}\`, /a/.test("a"), Math.random() !== 0,
  new Date().getTime(), typeof Promise.resolve().then, [5].values().map((x) => x).next().value]`;

describe('what all code shares', () => {
  test('cannot be changed, not by any statement', async () => {
    const at = 1_767_323_045_678;
    const untouched = [
      'undefined',
      'undefined',
      2,
      '{"a":1}',
      at,
      7,
      false,
      2,
      '[object Object]',
      true,
      true,
      at,
      'function',
      5,
    ];
    const tried = SHARED_STATEMENTS.map((statement) => `(() => { try { ${statement}; } catch {} return ${PROBE}; })()`);
    const values = [...(await each('return', tried)).values()];
    SHARED_STATEMENTS.forEach((statement, i) => {
      expect(values[i], statement).toEqual(untouched);
    });
  });

  test('may be overridden on objects of their own', async () => {
    const code = `() => {
      const o = {}; o.toString = () => "own"; o.constructor = 1;
      class Mine extends Error { constructor() { super("m"); this.name = "Mine"; } }
      const map = {}; map["__proto__"] = 1; map["hasOwnProperty"] = 2;
      return [String(o), o.constructor, new Mine().name, map.hasOwnProperty];
    }`;
    expect(await outcome(code)).toEqual(['own', 1, 'Mine', 2]);
  });

  test('a column may have any name', async () => {
    const record = JSON.parse('{"__proto__": 1, "constructor": 2, "toJSON": 3, "toString": 4, "then": 5}');
    const processed = await run(await sink('(action, record) => ({ r: { ...record, then: record.then } })'), record);
    expect(JSON.parse(String(bodyOf(processed)))).toEqual({ r: record });
  });
});

describe('a value that is no JSON', () => {
  test('has failed', async () => {
    const codes = [
      ['undefined', '() => undefined'],
      ['a function', '() => () => 1'],
      ['a symbol', '() => Symbol("x")'],
      ['a promise', '() => Promise.resolve(1)'],
      ['a thenable', '() => ({ then() {} })'],
      ['an import', '() => import("x")'],
      ['a cycle', '() => { const o = {}; o.o = o; return o; }'],
      ['a getter that throws', '() => ({ get a() { throw 1; } })'],
      ['a proxy that is revoked', '() => { const p = Proxy.revocable({}, {}); p.revoke(); return p.proxy; }'],
      ['a toJSON that gives nothing', '() => ({ toJSON() {} })'],
      ['messages in messages', '() => messages([messages([1])].map((m) => [m][0] && undefined))'],
      ['messages of something else', '() => messages("abc")'],
    ].map(([, code]) => `(${code})()`);
    for (const [code, value] of await each('return', codes)) expect(value, code).toBe('function_failed');
  });

  test('is as JSON has it where it has a form for it', async () => {
    const all: [string, string, unknown][] = [
      ['NaN and Infinity are null', '() => [NaN, Infinity]', [null, null]],
      ['what JSON leaves out is left out', '() => ({ a: undefined, b: () => 1, c: [undefined] })', { c: [null] }],
      ['bigint is digits', '() => ({ a: 12n })', { a: 12 }],
      ['toJSON is asked', '() => [{ toJSON: () => 7 }, new Date()]', [7, '2026-01-02T03:04:05.678Z']],
      [
        'a proxy is what it shows',
        '() => new Proxy({}, { ownKeys: () => ["a"], getOwnPropertyDescriptor: () => ({ value: 1, enumerable: true, configurable: true }), get: (t, k) => k === "a" ? 1 : undefined })',
        { a: 1 },
      ],
    ];
    const values = [
      ...(
        await each(
          'return',
          all.map(([, code]) => `(${code})()`),
        )
      ).values(),
    ];
    all.forEach(([what, , value], i) => {
      expect(values[i], what).toEqual(value);
    });
  });

  test('half a surrogate pair does not make bytes that are no UTF-8', async () => {
    const processed = await run(await sink('() => "a\\ud800b"'));
    expect(bodyOf(processed).toString()).toBe('a\ufffdb');
  });

  test('may be thrown, whatever it is', async () => {
    const tried = await each('run', [
      'throw null',
      'throw undefined',
      'throw Symbol()',
      'throw { get message() { throw 1; } }',
      'throw new Proxy({}, {})',
      'throw Object.create(null)',
      'throw Object.assign(new Error(), { name: Symbol(), message: 1n, stack: {} })',
    ]);
    for (const [code, value] of tried) expect(value, code).toBe('function_failed');
    const thrown = await run(await sink('() => { throw new Proxy({}, {}); }'));
    expect(thrown.kind === 'failed' && functionFailureOf(thrown.error)).toBeTruthy();
  });
});

function bodyOf(processed: Processed): Buffer {
  if (processed.kind !== 'messages')
    throw new Error(`${processed.kind} ${'error' in processed ? processed.error.message : ''}`);
  return processed.messages[0]!.body;
}
