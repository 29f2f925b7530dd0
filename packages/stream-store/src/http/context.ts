import type { ByteWriter } from '@millrace/core/byte-writer';
import type { MetricSets } from '../metrics/metric-sets.ts';
import type { UsageMeter } from '../metrics/usage-meter.ts';
import type { StreamStore } from '../store.ts';
import type { Throttle } from '../throttle/throttle.ts';
import type { Access } from './access.ts';
import type { BodyReader } from './body.ts';
import type { Exchange } from './exchange.ts';
import type { HttpMetrics } from './prometheus.ts';
import type { ReadMemory } from './read-memory.ts';
import type { FrameBufferPool } from './s2s-frame.ts';
import type { SharedEncodings } from './shared-encodings.ts';

/** What the handlers of a server share. */
export interface ServerContext {
  readonly store: StreamStore;
  /** Milliseconds since the epoch, for what clients see of time. */
  readonly now: () => number;
  readonly metrics: HttpMetrics;
  readonly usage: UsageMeter;
  readonly metricSets: MetricSets;
  /** null: no rate is limited. */
  readonly throttle: Throttle | null;
  readonly pool: FrameBufferPool;
  /** Frames, and JSON by format, of what followers get. */
  readonly shared: {
    readonly frames: SharedEncodings<Buffer>;
    readonly raw: SharedEncodings<string>;
    readonly base64: SharedEncodings<string>;
  };
  readonly readMemory: ReadMemory;
  readonly bodies: BodyReader;
  /** Scratch space for the synchronous part of a request: empty before and after. */
  readonly scratch: ByteWriter;
  /** How long to the next heartbeat of an idle read. */
  readonly heartbeatMs: () => number;
  /** A unary read waits this long at most. */
  readonly waitSecsMax: number;
  /** Sessions to tell when the server drains. */
  readonly sessions: Set<DrainableSession>;
  readonly logFailure: (what: string, error: unknown) => void;
}

export interface DrainableSession {
  drain(): void;
}

/** One authenticated request on its way to its handler. */
export interface Call {
  readonly context: ServerContext;
  readonly exchange: Exchange;
  readonly access: Access;
  /** The query string, without the question mark. */
  readonly query: string;
}
