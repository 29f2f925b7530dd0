import type { ByteWriter } from '@millrace/core/byte-writer';
import type { StreamStore } from '../store.ts';
import type { Access } from './access.ts';
import type { BodyReader } from './body.ts';
import type { Exchange } from './exchange.ts';
import type { HttpMetrics } from './prometheus.ts';
import type { FrameBufferPool } from './s2s-frame.ts';

/** What the handlers of a server share. */
export interface ServerContext {
  readonly store: StreamStore;
  readonly metrics: HttpMetrics;
  readonly pool: FrameBufferPool;
  readonly bodies: BodyReader;
  /** Scratch space for the synchronous part of a request: empty before and after. */
  readonly scratch: ByteWriter;
  /** How long to the next heartbeat of an idle read. */
  readonly heartbeatMs: () => number;
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
