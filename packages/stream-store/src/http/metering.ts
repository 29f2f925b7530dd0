import { pause } from '@millrace/core/pause';
import { type BasinUsage, MINUTE_MS, type UsageMeter } from '../metrics/usage-meter.ts';
import type { Stream } from '../store.ts';
import type { StreamThrottle } from '../throttle/throttle.ts';
import type { Call } from './context.ts';
import type { ReadSink } from './read-session.ts';

/** Counting and slowing down appends and reads, where they meet a connection. HOT PATH. */

/** Of one request or session that appends to a stream. */
export class AppendMetering {
  /** null: no limits. */
  readonly throttle: StreamThrottle | null;
  readonly #stream: Stream;
  readonly #connection: object;
  readonly #meter: UsageMeter;
  readonly #usage: BasinUsage;
  #countedIn = -1;

  constructor({ context, exchange }: Call, stream: Stream) {
    this.throttle = context.throttle === null ? null : context.throttle.of(stream, exchange.connection);
    this.#stream = stream;
    this.#connection = exchange.connection;
    this.#meter = context.usage;
    this.#usage = context.usage.of(stream.basin);
  }

  /** A batch is durable. */
  appended(meteredBytes: number): void {
    const { storageClass } = this.#stream;
    this.#usage.appended(storageClass, meteredBytes);
    const minute = this.#meter.minute;
    if (this.#countedIn === minute) return;
    this.#countedIn = minute;
    if (this.#meter.isAppendOp(this.#connection, this.#stream.id)) this.#usage.appendOp(storageClass);
  }
}

/** Of a unary read. Throws rate_limited. */
export function meterRead(call: Call, stream: Stream): { done(meteredBytes: number): void } {
  const { context, exchange } = call;
  const throttle = context.throttle === null ? null : context.throttle.of(stream, exchange.connection);
  throttle?.read();
  return {
    done(meteredBytes) {
      const usage = context.usage.of(stream.basin);
      usage.readOp('unary');
      usage.read(meteredBytes);
      throttle?.readDone(meteredBytes);
    },
  };
}

/** Of a read session: an operation for each minute begun, and waiting for a rate between two reads. */
export class SessionMetering {
  readonly #throttle: StreamThrottle | null;
  readonly #usage: BasinUsage;
  readonly #signal: AbortSignal;
  readonly #startedAt = performance.now();
  #minutes = 0;
  /** When the next read may be, on the clock of performance.now(). */
  #readAt = 0;

  constructor({ context, exchange }: Call, stream: Stream, signal: AbortSignal) {
    this.#throttle = context.throttle === null ? null : context.throttle.of(stream, exchange.connection);
    this.#usage = context.usage.of(stream.basin);
    this.#signal = signal;
    // Who comes again and again waits as well.
    if (this.#throttle !== null) this.#readAt = this.#startedAt + this.#throttle.readDebtMs();
    this.#countMinutes();
  }

  /** For ReadSession. */
  readonly beforeRead = (): Promise<void> | null => {
    if (this.#throttle === null || this.#readAt === 0) return null;
    const waitMs = Math.ceil(this.#readAt - performance.now());
    this.#readAt = 0;
    if (waitMs <= 0) return null;
    this.#throttle.waitedToRead(waitMs);
    return pause(waitMs, this.#signal);
  };

  around(sink: ReadSink): ReadSink {
    return {
      batch: (slice, tail) => {
        this.#countMinutes();
        this.#usage.read(slice.meteredBytes);
        if (this.#throttle !== null) this.#readAt = performance.now() + this.#throttle.readWaitMs(slice.meteredBytes);
        return sink.batch(slice, tail);
      },
      // At least every quarter of a minute, so that an idle session counts too.
      heartbeat: (tail) => {
        this.#countMinutes();
        return sink.heartbeat(tail);
      },
    };
  }

  #countMinutes(): void {
    const begun = Math.floor((performance.now() - this.#startedAt) / MINUTE_MS) + 1;
    for (; this.#minutes < begun; this.#minutes++) this.#usage.readOp('streaming');
  }
}
