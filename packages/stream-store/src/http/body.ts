import { S2Error } from '../s2-error.ts';
import type { Exchange } from './exchange.ts';

interface Pending {
  readonly deadline: number;
  readonly fail: (error: S2Error) => void;
}

/**
 * Reads whole request bodies. One clock for all of them: most are there before a timer of their own could have been
 * set up. What is in memory is bounded over all of them: beyond it the rest is left to the senders. When nothing that is
 * complete could make room, the oldest body is read to its end all the same, or none ever would be.
 */
export class BodyReader {
  readonly #timeoutMs: number;
  readonly #bytesMax: number;
  /** In the order of their deadlines. */
  readonly #pending = new Map<Exchange, Pending>();
  readonly #paused = new Set<Exchange>();
  readonly #clock: NodeJS.Timeout;
  #bytes = 0;
  /** Complete bodies whose exchanges are not over. */
  #unanswered = 0;

  constructor(timeoutMs: number, bytesMax: number) {
    this.#timeoutMs = timeoutMs;
    this.#bytesMax = bytesMax;
    this.#clock = setInterval(() => this.#expire(), Math.min(1000, timeoutMs));
    this.#clock.unref();
  }

  /** Bytes of bodies in memory, whose exchanges are not over. */
  get bytes(): number {
    return this.#bytes;
  }

  /** Refuses more than `bytesMax` with invalid, a body that comes too slowly with request_timeout. */
  read(exchange: Exchange, bytesMax: number): Promise<Buffer> {
    const { body } = exchange;
    // An HTTP/2 request without a body ends by itself, whether anybody listens or not.
    if (body.readableEnded) return Promise.resolve(EMPTY);
    return new Promise((resolve, reject) => {
      let first: Buffer | null = null;
      let more: Buffer[] | null = null;
      let size = 0;
      const settled = () => {
        this.#pending.delete(exchange);
        this.#paused.delete(exchange);
        body.off('data', onData);
        body.off('end', onEnd);
        body.off('close', onClose);
      };
      const fail = (error: S2Error) => {
        settled();
        this.#bytes -= exchange.bodyBytes;
        exchange.bodyBytes = 0;
        if (this.#paused.size > 0) this.#resume();
        reject(error);
      };
      const onData = (chunk: Buffer) => {
        size += chunk.length;
        exchange.bodyBytes += chunk.length;
        this.#bytes += chunk.length;
        if (size > bytesMax) return fail(new S2Error('invalid', `The body is larger than ${bytesMax} bytes.`));
        if (first === null) first = chunk;
        else if (more === null) more = [first, chunk];
        else more.push(chunk);
        if (this.#bytes > this.#bytesMax && !this.#mayGoOn(exchange)) {
          body.pause();
          this.#paused.add(exchange);
        }
      };
      const onEnd = () => {
        settled();
        if (size > 0) this.#unanswered++;
        resolve(more !== null ? Buffer.concat(more, size) : (first ?? EMPTY));
      };
      const onClose = () => fail(hangup());
      this.#pending.set(exchange, { deadline: performance.now() + this.#timeoutMs, fail });
      body.on('data', onData);
      body.on('end', onEnd);
      body.on('close', onClose);
    });
  }

  /** An exchange is over, and with it its body. */
  release(exchange: Exchange): void {
    this.#pending.get(exchange)?.fail(hangup());
    if (exchange.bodyBytes === 0) return;
    this.#bytes -= exchange.bodyBytes;
    exchange.bodyBytes = 0;
    this.#unanswered--;
    if (this.#paused.size > 0) this.#resume();
  }

  #resume(): void {
    for (const exchange of this.#paused) {
      if (this.#bytes > this.#bytesMax && !this.#mayGoOn(exchange)) return;
      this.#paused.delete(exchange);
      exchange.body.resume();
    }
  }

  #mayGoOn(exchange: Exchange): boolean {
    return this.#unanswered === 0 && this.#pending.keys().next().value === exchange;
  }

  close(): void {
    clearInterval(this.#clock);
  }

  #expire(): void {
    const now = performance.now();
    for (const pending of this.#pending.values()) {
      if (pending.deadline > now) return;
      pending.fail(new S2Error('request_timeout', 'The request body did not arrive in time.'));
    }
  }
}

function hangup(): S2Error {
  return new S2Error('client_hangup', 'The client closed the connection.');
}

const EMPTY = Buffer.alloc(0);
