/** A log, a destination that fails as told, and a state table that survives kills: what a push delivery is tried on. */
import { MillraceError } from '@millrace/core/error';
import { comparePositions, ORDINAL_END, type Position } from '@millrace/core/position';
import { cursorStore, newCursor } from '@millrace/engine/deliver/cursor-store';
import type { DeadLetter, DeadLetters } from '@millrace/engine/deliver/dead-letters';
import type { Feed, OpenFeed } from '@millrace/engine/deliver/feed';
import { operatorMemory } from '@millrace/engine/deliver/operator-memory';
import { type PushDelivery, startPushDelivery } from '@millrace/engine/deliver/push-delivery';
import type { DeliveryNotice, DeliveryPolicy, PushDeliveryOptions } from '@millrace/engine/deliver/push-options';
import type { MessageBatch } from '@millrace/sinks/message-batch';
import type { DeliveryOutcome, MessageAction, OutMessage, PushLimits, PushSink } from '@millrace/sinks/push-sink';
import type { StateTable } from '@millrace/stream-store/store';

export interface LoggedMessage {
  readonly position: Position;
  readonly key: string;
  /** Of the key: 0, 1, 2, ... */
  readonly version: number;
  readonly action?: MessageAction;
  readonly group?: string | null;
  readonly alsoGroup?: string;
  readonly barrier?: boolean;
  /** Of the body, about. */
  readonly bytes?: number;
  /** A row of a backfill: the chunk that it is of. */
  readonly chunk?: number;
}

export const POLICY: DeliveryPolicy = {
  batchSize: 10,
  batchTimeoutMs: 0,
  maxAckPending: 200,
  maxRetryCount: null,
  retry: { minMs: 1, maxMs: 20 },
  oversize: { policy: 'fail', columns: [] },
  loadShedding: 'pause_on_full',
};

/** Transactions of up to `most` changes; `keys` says of which keys, in order. */
export function logOf(keys: readonly string[], most = 3): LoggedMessage[] {
  const versions = new Map<string, number>();
  return keys.map((key, i) => {
    const version = versions.get(key) ?? 0;
    versions.set(key, version + 1);
    return { position: { lsn: BigInt(100 + Math.floor(i / most) * 10), ordinal: i % most }, key, version };
  });
}

export class TestLog {
  readonly messages: LoggedMessage[];
  /** Positions before it are forgotten. */
  trimmedTo = 0n;
  fills = 0;
  #wake: (() => void)[] = [];

  constructor(messages: readonly LoggedMessage[] = []) {
    this.messages = [...messages];
  }

  append(...messages: LoggedMessage[]): void {
    this.messages.push(...messages);
    for (const wake of this.#wake.splice(0)) wake();
  }

  wait(signal: AbortSignal): Promise<void> {
    return new Promise((resolve) => {
      this.#wake.push(resolve);
      signal.addEventListener('abort', () => resolve(), { once: true });
      if (signal.aborted) resolve();
    });
  }

  readonly open: OpenFeed = async (cursor, _signal, progress) => {
    if (cursor.position.lsn < this.trimmedTo) throw new MillraceError('log_overrun');
    const log = this;
    const chunksDone = Number(cursor.backfills.get('backfill')?.[0] ?? -1);
    let at = log.messages.findIndex(
      ({ position, chunk }) =>
        (chunk === undefined && comparePositions(position, cursor.position) > 0) ||
        (chunk !== undefined && chunk > chunksDone),
    );
    if (at < 0) at = log.messages.length;
    const feed: Feed = {
      progress: 0n,
      async fill(batch) {
        log.fills++;
        let rows: number | null = null;
        for (; at < log.messages.length; at++) {
          const message = log.messages[at]!;
          const { chunk } = message;
          if (chunk === undefined && comparePositions(message.position, cursor.position) <= 0) continue;
          if (chunk !== undefined && chunk <= chunksDone) continue;
          if (batch.full || (batch.count > 0 && (chunk ?? null) !== rows)) return 'full';
          rows = chunk ?? null;
          if (!write(batch, message)) return 'full';
          if (chunk === undefined) batch.through = message.position;
          else batch.mark = { backfill: 'backfill', key: [String(chunk)] };
          const next = log.messages[at + 1];
          if (next !== undefined && chunk === undefined && next.position.lsn !== message.position.lsn)
            batch.through = { lsn: message.position.lsn, ordinal: ORDINAL_END };
        }
        return 'idle';
      },
      changed: (signal) => log.wait(signal),
      close: async () => {},
    };
    void progress;
    return feed;
  };
}

function write(batch: MessageBatch, message: LoggedMessage): boolean {
  const { position, key, version, bytes = 0 } = message;
  const action = message.action ?? (message.chunk === undefined ? 'update' : 'read');
  const record = { id: key, version, ...(bytes > 0 && { note: 'x'.repeat(bytes) }) };
  batch.body.bytes(Buffer.from(JSON.stringify({ record, changes: null, action, metadata: { big: 1 } })));
  if (!batch.add(position.lsn, position.ordinal)) return false;
  const about = batch.descriptions!;
  about.actions.push(action);
  about.schemas.push('public');
  about.tables.push('items');
  about.keys.push([key]);
  about.idempotencyKeys.push(keyOf(message));
  about.groups.push(message.group === undefined ? key : message.group);
  about.alsoGroups.push(message.alsoGroup ?? null);
  about.barriers.push(message.barrier ?? false);
  return true;
}

export function keyOf({ key, version }: Pick<LoggedMessage, 'key' | 'version'>): string {
  return `${key}:${version}`;
}

export interface Arrival {
  readonly key: string;
  readonly version: number;
  readonly id: string;
  readonly session: number;
  readonly request: number;
  readonly action: MessageAction;
  readonly body: string;
}

export type Answer = DeliveryOutcome | null;
/** What becomes of a request. `arrive` takes messages in, in this order. */
export type Behaviour = (
  messages: readonly OutMessage[],
  arrive: (message: OutMessage) => void,
  signal: AbortSignal,
) => Promise<Answer> | Answer;

export const LIMITS: PushLimits = {
  messagesMax: 10,
  bytesMax: 1_000_000,
  messageBytesMax: 100_000,
  concurrency: 8,
  groupsShareRequests: false,
};

export const takesAll: Behaviour = (messages, arrive) => {
  for (const message of messages) arrive(message);
  return null;
};

/** Durable across kills: the destination, the state table, and the dead letters. */
export class TestWorld {
  readonly log: TestLog;
  readonly arrivals: Arrival[] = [];
  readonly letters: DeadLetter[] = [];
  readonly notices: DeliveryNotice[] = [];
  readonly table = new Map<string, Uint8Array>();
  behaviour: Behaviour = takesAll;
  limits: PushLimits = LIMITS;
  policy: DeliveryPolicy = POLICY;
  saves = 0;
  requests = 0;
  underWay = 0;
  underWayMost = 0;
  /** Groups that are in a request, to see that none is in two. */
  readonly busy = new Map<string, number>();
  violations: string[] = [];
  #session = 0;
  #alive: { value: boolean } = { value: true };
  delivery!: PushDelivery;
  options: Partial<PushDeliveryOptions> = {};

  constructor(messages: readonly LoggedMessage[]) {
    this.log = new TestLog(messages);
  }

  get session(): number {
    return this.#session;
  }

  async start(): Promise<PushDelivery> {
    this.#session++;
    const alive = { value: true };
    this.#alive = alive;
    const state = this.#state(alive);
    const cursors = cursorStore(state, 'sink/test/cursor');
    if (cursors.load() === null) await cursors.save(newCursor(0n), false);
    this.delivery = startPushDelivery({
      name: 'test',
      databaseName: 'db',
      open: async () => this.#sink(alive, this.#session),
      router: (_, returned) => ({ route: returned ?? {} }),
      processor: null,
      policy: this.policy,
      paused: false,
      cursors,
      memory: operatorMemory(state, 'test'),
      openFeed: this.log.open,
      deadLetters: this.#deadLetters(alive),
      log: {
        end: () => this.log.messages.at(-1)?.position.lsn ?? 0n,
        positionOf: async (place) => {
          if (typeof place === 'string' || 'timeMs' in place) throw new Error('the test log knows LSNs only');
          const lsn = place.lsn - 1n;
          if (lsn < this.log.trimmedTo) throw new MillraceError('log_overrun');
          return { lsn, ordinal: ORDINAL_END };
        },
      },
      onNotice: (notice) => this.notices.push(notice),
      ...this.options,
    });
    return this.delivery;
  }

  /** As a SIGKILL: nothing of it has any effect from now on. */
  kill(): void {
    this.#alive.value = false;
    this.underWay = 0;
    this.busy.clear();
    void this.delivery.stop();
  }

  #state(alive: { value: boolean }): StateTable {
    const { table } = this;
    const forever = () => new Promise<void>(() => {});
    return {
      get: (key) => table.get(key),
      list: (prefix) => [...table].filter(([key]) => key.startsWith(prefix)),
      put: async (key, value) => {
        // As a disk: not at once.
        await new Promise((resolve) => setImmediate(resolve));
        if (!alive.value) return await forever();
        this.saves++;
        table.set(key, Uint8Array.from(value));
      },
      delete: async (key) => {
        if (!alive.value) return await forever();
        table.delete(key);
      },
    };
  }

  #deadLetters(alive: { value: boolean }): DeadLetters {
    return {
      add: async (letters) => {
        await new Promise((resolve) => setImmediate(resolve));
        if (!alive.value) return await new Promise(() => {});
        this.letters.push(...letters);
      },
      place: async () => ({ id: 1, seqNum: this.letters.length }),
      keysSince: async (place) =>
        new Set(
          this.letters
            .slice(place?.seqNum ?? 0)
            .map(({ facts, sub }) => (sub === 0 ? facts.idempotencyKey : `${facts.idempotencyKey}.${sub}`)),
        ),
    };
  }

  #sink(alive: { value: boolean }, session: number): PushSink {
    return {
      limits: this.limits,
      batchKey: () => '',
      sizeOf: ({ body }) => body.length,
      deliver: async (messages, signal) => {
        if (!alive.value) return await new Promise(() => {});
        const request = this.requests++;
        this.#check(messages);
        this.underWay++;
        this.underWayMost = Math.max(this.underWayMost, this.underWay);
        const arrive = (message: OutMessage) => {
          if (!alive.value) return;
          const { record } = JSON.parse(message.body.toString()) as { record: { id: string; version: number } };
          this.arrivals.push({
            key: record.id,
            version: record.version,
            id: message.idempotencyKey,
            session,
            request,
            action: message.action,
            body: message.body.toString(),
          });
        };
        try {
          return await this.behaviour(messages, arrive, signal);
        } finally {
          if (alive.value) {
            this.underWay--;
            for (const { group } of messages) if (group !== null) this.busy.delete(group);
          } else await new Promise(() => {});
        }
      },
      test: async () => {},
      close: async () => {},
    };
  }

  #check(messages: readonly OutMessage[]): void {
    if (messages.length > this.limits.messagesMax) this.violations.push('too many messages in a request');
    if (messages.reduce((sum, { body }) => sum + body.length, 0) > this.limits.bytesMax)
      this.violations.push('too many bytes in a request');
    const here = new Set<string>();
    for (const { group } of messages) {
      if (group === null) continue;
      if (this.busy.has(group)) this.violations.push(`group ${group} in two requests at once`);
      if (here.has(group) && !this.limits.groupsShareRequests)
        this.violations.push(`group ${group} twice in a request`);
      here.add(group);
    }
    for (const group of here) this.busy.set(group, 1);
  }

  get idle(): boolean {
    const { state } = this.delivery;
    return state.kind === 'running' && state.caughtUp;
  }

  /** Ids in the order in which they arrived, each once. */
  firstArrivals(): string[] {
    return [...new Set(this.arrivals.map(({ id }) => id))];
  }
}
