import { MillraceError } from '@millrace/core/error';
import type { Lsn } from '@millrace/core/lsn';
import type { MessageBatch } from '@millrace/sinks/message-batch';
import { SCHEMA_SUB } from '@millrace/sinks/message-targets';
import { routePlace } from '@millrace/sinks/s2-place';
import { expect, test } from 'vitest';
import type { Processed, Processor } from '../transform/processor.ts';
import type { DeadLetter } from './dead-letters.ts';
import type { Feed } from './feed.ts';
import { ProcessedFeed, type ProcessingOptions, processedBatch } from './processed-feed.ts';

const LIMITS = { messagesMax: 1000, bytesMax: 1 << 20, messageOverhead: 10 };

interface Source {
  readonly ids: readonly number[];
  readonly mark?: { backfill: string; key: string[] };
  readonly result?: 'full' | 'idle';
}

/** Batches as given: a message per id, at position 5#id. */
class GivenFeed implements Feed {
  readonly #sources: Source[];
  fills = 0;

  constructor(sources: readonly Source[]) {
    this.#sources = [...sources];
  }

  get progress(): Lsn {
    return BigInt(this.fills);
  }

  async fill(batch: MessageBatch): Promise<'full' | 'idle'> {
    this.fills++;
    const {
      ids,
      mark = null,
      result = this.#sources.length > 0 ? 'full' : 'idle',
    } = this.#sources.shift() ?? { ids: [] };
    for (const id of ids) {
      const metadata = { table_schema: 'public', table_name: 't', record_pks: [String(id)], idempotency_key: `k${id}` };
      const message = {
        record: { id },
        changes: null,
        action: 'insert',
        metadata: { ...metadata, database_name: 'shop' },
      };
      batch.body.bytes(Buffer.from(JSON.stringify(message)));
      batch.add(5n, id);
    }
    batch.mark = mark;
    batch.through = { lsn: 5n, ordinal: ids.at(-1) ?? 1_000 };
    return result;
  }

  changed(): Promise<void> {
    return new Promise(() => {});
  }

  async close(): Promise<void> {}
}

function processorOf(make: (id: number) => Processed): Processor {
  return {
    async process(batch, from) {
      return Array.from({ length: batch.count - from }, (_, i) => {
        const { record } = JSON.parse(batch.body.buffer.toString('utf8', batch.start(from + i), batch.ends[from + i]));
        return make(record.id);
      });
    },
    async close() {},
  };
}

function made(...bodies: string[]): Processed {
  const messages = bodies.map((body) => ({ body: Buffer.from(body), json: false, route: null }));
  return { kind: 'messages', messages };
}

function processed(sources: readonly Source[], make: (id: number) => Processed, more: Partial<ProcessingOptions> = {}) {
  const inner = new GivenFeed(sources);
  const feed = new ProcessedFeed(
    inner,
    LIMITS.messageOverhead,
    {
      processor: processorOf(make),
      place: (route) => routePlace(route, { basin: 'some-basin', stream: 'rest' }),
      sink: 's',
      oversize: { policy: 'fail', columns: [] },
      maxRetryCount: null,
      retry: { minMs: 1, maxMs: 1 },
      messageBytesMax: 1 << 20,
      ...more,
    },
    new AbortController().signal,
  );
  return { feed, inner };
}

async function filled(feed: ProcessedFeed) {
  const batch = processedBatch(LIMITS);
  const result = await feed.fill(batch);
  const messages = Array.from({ length: batch.count }, (_, i) => ({
    body: batch.body.buffer.toString('utf8', batch.start(i), batch.ends[i]),
    at: batch.ordinals[i],
    sub: batch.targets!.subs[i],
    place: batch.targets!.names[batch.targets!.places[i]!],
  }));
  return { result, bodies: messages.map(({ body }) => body), messages, batch };
}

const range = (from: number, to: number) => Array.from({ length: to - from + 1 }, (_, i) => from + i);

test('filtered messages are gone, and the cursor passes them all the same', async () => {
  const { feed } = processed([{ ids: range(1, 5) }], (id) => (id === 3 ? made('three') : { kind: 'filtered' }));
  const { result, bodies, batch } = await filled(feed);
  expect({ result, bodies, through: batch.through }).toEqual({
    ...{ result: 'idle', bodies: ['three'] },
    through: { lsn: 5n, ordinal: 5 },
  });
});

test('where everything is filtered each batch says how far it came, however many there are', async () => {
  const { feed } = processed([{ ids: range(1, 5) }, { ids: range(6, 9) }], () => ({ kind: 'filtered' }));
  const first = await filled(feed);
  expect({ ...first.batch.through, empty: first.batch.empty, result: first.result }).toEqual({
    ...{ lsn: 5n, ordinal: 5 },
    ...{ empty: true, result: 'full' },
  });
  expect((await filled(feed)).batch.through).toEqual({ lsn: 5n, ordinal: 9 });
});

test('several messages of one change are numbered, and never in two batches', async () => {
  const { feed } = processed([{ ids: range(1, 3) }], (id) => made(...range(1, 2000).map((n) => `${id}.${n}`)));
  const first = await filled(feed);
  expect(first.result).toBe('full');
  expect(first.bodies).toHaveLength(4000);
  expect(first.messages[2000]).toEqual({ body: '2.1', at: 2, sub: 0, place: 'some-basin/rest' });
  expect(first.messages[2001]).toMatchObject({ body: '2.2', at: 2, sub: 1 });
  expect(first.batch.through).toEqual({ lsn: 5n, ordinal: 2 });
  const second = await filled(feed);
  expect(second.bodies).toHaveLength(2000);
  expect(second.batch.through).toEqual({ lsn: 5n, ordinal: 3 });
});

test('rows of a backfill are batches of their own; only the last one carries the mark', async () => {
  const mark = { backfill: 'b', key: ['4'] };
  const { feed } = processed([{ ids: [1, 2] }, { ids: [3, 4], mark }, { ids: [5] }], (id) =>
    made(...range(1, id === 1 ? 1 : 2500).map((n) => `${id}.${n}`)),
  );
  const shown = async () => {
    const { bodies, batch } = await filled(feed);
    return { first: bodies[0], count: bodies.length, rows: batch.targets!.rows, mark: batch.mark };
  };
  expect(await shown()).toEqual({ first: '1.1', count: 2501, rows: false, mark: null });
  expect(await shown()).toEqual({ first: '3.1', count: 2500, rows: true, mark: null });
  expect(await shown()).toEqual({ first: '4.1', count: 2500, rows: true, mark });
  expect(await shown()).toEqual({ first: '5.1', count: 2500, rows: false, mark: null });
});

test('the shape of a table is not taken for the change before it, whose position it has', async () => {
  const mark = { backfill: 'schema/7', key: ['1'] };
  const { feed } = processed([{ ids: [1, 2], mark }], (id) => made(`${id}`));
  expect((await filled(feed)).messages.map(({ sub }) => sub)).toEqual([0, SCHEMA_SUB]);
});

test('a message that functions fail on holds up those after it, not those before, and is tried again', async () => {
  let broken = true;
  const failing = new MillraceError('function_failed', { detail: 'Function "f", line 3.' });
  const { feed } = processed([{ ids: range(1, 3) }], (id) =>
    id === 2 && broken ? { kind: 'failed', error: failing } : made(`${id}`),
  );
  expect((await filled(feed)).bodies).toEqual(['1']);
  expect(feed.blocked).toBeNull();
  for (const attempt of [0, 1]) {
    const { result, batch } = await filled(feed);
    expect({ result, empty: batch.empty, through: batch.through.ordinal }).toEqual({
      result: 'full',
      empty: true,
      through: 1,
    });
    expect(feed.blocked).toMatchObject({ attempt, error: { code: 'function_failed' } });
  }
  expect(feed.blocked!.error.message).toContain('Function "f", line 3. It is change 0/5#2 of table "public"."t".');
  broken = false;
  expect((await filled(feed)).bodies).toEqual(['2', '3']);
  expect(feed.blocked).toBeNull();
});

test('a message that was tried often enough is a dead letter, and those after it go on', async () => {
  const letters: DeadLetter[] = [];
  const deadLetters = {
    add: async (some: readonly DeadLetter[]) => void letters.push(...some),
    place: async () => null,
    keysSince: async () => new Set<string>(),
  };
  const failing = new MillraceError('function_failed', { detail: 'It.' });
  let now = 100;
  const { feed } = processed(
    [{ ids: range(1, 2) }],
    (id) => (id === 1 ? { kind: 'failed', error: failing } : made(`${id}`)),
    { maxRetryCount: 2, deadLetters, now: () => now++ },
  );
  expect((await filled(feed)).bodies).toEqual([]);
  expect((await filled(feed)).bodies).toEqual([]);
  expect(letters).toEqual([]);
  expect((await filled(feed)).bodies).toEqual(['2']);
  expect(letters).toMatchObject([
    {
      facts: {
        action: 'insert',
        schema: 'public',
        table: 't',
        keys: ['1'],
        idempotencyKey: 'k1',
        databaseName: 'shop',
      },
      ...{ position: { lsn: 5n, ordinal: 1 }, tries: 3, error: { code: 'function_failed' } },
      ...{ firstFailedAt: 100, lastFailedAt: 102 },
    },
  ]);
  expect(JSON.parse(letters[0]!.message.toString()).record).toEqual({ id: 1 });
});

test.each([
  [{ stream: '' }, 'Its key "stream"'],
  [{ stream: 7 }, 'Its key "stream" is no text'],
  [{ basin: 'No' }, 'Its key "basin"'],
  [{ streem: 's' }, 'Its key "streem"'],
  [{ 'secret value': 's' }, 'Its key "?"'],
])('a route that a stream sink cannot take is told by its key: %o', async (route, text) => {
  const { feed } = processed([{ ids: [1] }], () => ({
    kind: 'messages',
    messages: [{ body: Buffer.from('x'), json: true, route }],
  }));
  await filled(feed);
  expect(feed.blocked!.error).toMatchObject({ code: 'sink_route_invalid', message: expect.stringContaining(text) });
});

test('a message that its functions made larger than a record is named, not sent', async () => {
  const { feed } = processed([{ ids: [1, 2] }], (id) => made('x'.repeat(id === 1 ? 1 : 1 << 20)));
  expect((await filled(feed)).bodies).toEqual(['x']);
  await filled(feed);
  expect(feed.blocked!.error).toMatchObject({ code: 'sink_record_too_large', message: expect.stringContaining('5#2') });
});

test('the next batch is filled while functions work, and counts as looked at only when it was handed on', async () => {
  const gate = Promise.withResolvers<void>();
  const { feed, inner } = processed([{ ids: [1] }, { ids: [2] }], (id) => made(`${id}`), {
    processor: {
      async process(batch) {
        await gate.promise;
        return [made(String(batch.ordinals[0]))];
      },
      async close() {},
    },
  });
  const filling = filled(feed);
  await expect.poll(() => inner.fills).toBe(2);
  expect(feed.progress).toBe(0n);
  gate.resolve();
  expect((await filling).bodies).toEqual(['1', '2']);
  expect(feed.progress).toBe(2n);
});

test('the end of a backfill comes alone, and the source is asked for no more before it was handed on', async () => {
  const mark = { backfill: 'b', key: [] };
  const { feed, inner } = processed([{ ids: [1] }, { ids: [], mark, result: 'full' }, { ids: [2] }], (id) =>
    made(`${id}`),
  );
  expect((await filled(feed)).batch.mark).toBeNull();
  expect(inner.fills).toBe(2);
  const end = await filled(feed);
  expect({ empty: end.batch.empty, mark: end.batch.mark, fills: inner.fills }).toEqual({ empty: true, mark, fills: 2 });
  expect((await filled(feed)).bodies).toEqual(['2']);
});
