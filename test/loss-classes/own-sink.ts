/**
 * A pipeline from a real Postgres over a real change log into sinks of the test's own. It can die: what is on record
 * then stays as it is, as after SIGKILL.
 */
import { rmSync } from 'node:fs';
import { MillraceError } from '@millrace/core/error';
import { POSITION_ZERO, type Position } from '@millrace/core/position';
import { DEFAULT_CONTENTS } from '@millrace/engine/decode/message-contents';
import { startPipeline } from '@millrace/engine/pipeline';
import type { Pipeline } from '@millrace/engine/pipeline-options';
import type { SinkSpec } from '@millrace/engine/sink-spec';
import type { MessageBatch } from '@millrace/sinks/message-batch';
import type { Sink, SinkCursor } from '@millrace/sinks/sink';
import { type LocalStore, type LocalStoreOptions, openLocalStore } from '@millrace/stream-store/local-store';
import type { StateTable } from '@millrace/stream-store/store';
import { type TestDatabase, testDirectory } from '@millrace/testkit/postgres';

export interface Arrived {
  readonly position: Position;
  readonly record: Readonly<Record<string, unknown>>;
  readonly key: string;
}

/** The messages of a batch, one by one. */
export function messagesOf(batch: MessageBatch): Arrived[] {
  const messages: Arrived[] = [];
  for (let i = 0, run = 0; i < batch.count; i++) {
    while (batch.runEnds[run]! <= i) run++;
    const body = JSON.parse(batch.body.buffer.toString('utf8', batch.start(i), batch.ends[i]!));
    const position = { lsn: batch.runLsns[run]!, ordinal: batch.ordinals[i]! };
    messages.push({ position, record: body.record, key: body.metadata.idempotency_key });
  }
  return messages;
}

export interface OwnSinkOptions {
  readonly messagesMax?: number;
  readonly writesMax?: number;
  /** Absent: where the engine says it was. Otherwise what the destination itself proves to hold. */
  readonly resume?: Sink['resume'];
  readonly saved?: Sink['saved'];
}

/** `write` says when a batch is durable. Its messages are taken out before: the batch is used again. */
export function ownSink(
  write: (messages: readonly Arrived[], signal: AbortSignal) => Promise<void>,
  { messagesMax = 100, writesMax = 1, resume, saved }: OwnSinkOptions = {},
): Sink {
  return {
    limits: { messagesMax, bytesMax: 1 << 20, messageOverhead: 0 },
    writesMax,
    resume: resume ?? (async (cursor) => cursor),
    async write(batch, signal) {
      await write(messagesOf(batch), signal);
      return { own: true };
    },
    saved: saved ?? (() => {}),
    async close() {},
  };
}

/** Never, or when the life of the sink ends. */
export function untilAborted(signal: AbortSignal): Promise<never> {
  const ended = () => new MillraceError('storage_closed');
  return new Promise((_, reject) => {
    if (signal.aborted) reject(ended());
    signal.addEventListener('abort', () => reject(ended()), { once: true });
  });
}

export interface OwnPipeline {
  readonly pipeline: Pipeline;
  readonly store: LocalStore;
  stop(): Promise<void>;
  /** From now on nothing is put on record any more. Then everything ends. */
  die(): Promise<void>;
}

export interface OwnPipelineOptions {
  readonly db: TestDatabase;
  readonly dir: string;
  readonly sinks: Readonly<Record<string, Sink | ((store: LocalStore) => Sink)>>;
  readonly store?: Partial<LocalStoreOptions>;
  /** What every sink asks for beyond insert, update and delete of every table. */
  readonly spec?: Partial<Pick<SinkSpec, 'actions' | 'contents'>>;
}

export async function startOwnPipeline({
  db,
  dir,
  sinks,
  store: more,
  spec,
}: OwnPipelineOptions): Promise<OwnPipeline> {
  const store = await openLocalStore({ dir, log: () => {}, ...more });
  let dead = false;
  const { state } = store;
  const mortal: StateTable = {
    get: (key) => state.get(key),
    list: (prefix) => state.list(prefix),
    put: (key, value) => (dead ? Promise.reject(new MillraceError('storage_closed')) : state.put(key, value)),
    delete: (key) => (dead ? Promise.reject(new MillraceError('storage_closed')) : state.delete(key)),
  };
  const pipeline = await startPipeline({
    source: {
      name: 'shop',
      connection: { ...db.config, ssl: 'disable' },
      slot: { name: db.name, createIfNotExists: true },
      publication: { name: 'all', createIfNotExists: true },
    },
    sinks: Object.entries(sinks).map(([name, sink]) => ({
      ...specOf(name, typeof sink === 'function' ? sink(store) : sink),
      ...spec,
    })),
    logStream: store.openLogStream('changes/shop') ?? (await store.createLogStream('changes/shop')),
    state: mortal,
    logBytesMax: 2 ** 30,
    awaitMs: 5_000,
  });
  pipeline.done.catch(() => {});
  async function stop(): Promise<void> {
    await pipeline.stop();
    await store.close();
  }
  return {
    pipeline,
    store,
    stop,
    async die() {
      dead = true;
      await stop();
    },
  };
}

function specOf(name: string, sink: Sink): SinkSpec {
  return {
    name,
    fingerprint: name,
    status: 'active',
    target: {
      kind: 'stream',
      sink,
      policy: {
        ...{ sink: 'own', maxRetryCount: null, retry: { minMs: 100, maxMs: 1_000 } },
        ...{ oversize: { policy: 'fail', columns: [] }, messageBytesMax: Infinity },
      },
    },
    origin: {
      database: { id: 'db', name: 'shop', annotations: {}, database: 'shop', hostname: 'localhost' },
      consumer: { id: name, name, annotations: {} },
    },
    takes: () => true,
    tables: [],
    actions: { insert: true, update: true, delete: true, truncate: false },
    contents: DEFAULT_CONTENTS,
    fillUnchanged: false,
    initialBackfill: false,
    backfillId: (schema, table) => `${name} ${schema} ${table}`,
  };
}

/** A directory for the store, gone when the test is over. */
export async function inDirectory(work: (dir: string) => Promise<void>): Promise<void> {
  const dir = testDirectory('loss-class');
  try {
    await work(dir);
  } finally {
    rmSync(dir, { recursive: true, force: true });
  }
}

/** A cursor moved to a message that arrived; what a destination that keeps positions proves. */
export function proved(cursor: SinkCursor | null, arrived: readonly Arrived[]): SinkCursor | null {
  const last = arrived.at(-1);
  if (last === undefined) return cursor;
  const base = cursor ?? { position: POSITION_ZERO, backfills: new Map(), destination: null };
  return { ...base, position: last.position, destination: { own: true } };
}
