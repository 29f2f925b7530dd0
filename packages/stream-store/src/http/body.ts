import type { Readable } from 'node:stream';
import { S2Error } from '../s2-error.ts';

interface Pending {
  readonly deadline: number;
  readonly fail: (error: S2Error) => void;
}

/**
 * Reads whole request bodies. One clock for all of them: most are there before a timer of their own could have been
 * set up.
 */
export class BodyReader {
  readonly #timeoutMs: number;
  /** In the order of their deadlines. */
  readonly #pending = new Set<Pending>();
  readonly #clock: NodeJS.Timeout;

  constructor(timeoutMs: number) {
    this.#timeoutMs = timeoutMs;
    this.#clock = setInterval(() => this.#expire(), Math.min(1000, timeoutMs));
    this.#clock.unref();
  }

  /** Refuses more than `bytesMax` with invalid, a body that comes too slowly with request_timeout. */
  read(body: Readable, bytesMax: number): Promise<Buffer> {
    return new Promise((resolve, reject) => {
      let first: Buffer | null = null;
      let more: Buffer[] | null = null;
      let size = 0;
      const settled = () => {
        this.#pending.delete(pending);
        body.off('data', onData);
        body.off('end', onEnd);
        body.off('close', onClose);
      };
      const fail = (error: S2Error) => {
        settled();
        reject(error);
      };
      const onData = (chunk: Buffer) => {
        size += chunk.length;
        if (size > bytesMax) return fail(new S2Error('invalid', `The body is larger than ${bytesMax} bytes.`));
        if (first === null) first = chunk;
        else if (more === null) more = [first, chunk];
        else more.push(chunk);
      };
      const onEnd = () => {
        settled();
        resolve(more !== null ? Buffer.concat(more, size) : (first ?? EMPTY));
      };
      const onClose = () => fail(new S2Error('client_hangup', 'The client closed the connection.'));
      const pending: Pending = { deadline: performance.now() + this.#timeoutMs, fail };
      this.#pending.add(pending);
      body.on('data', onData);
      body.on('end', onEnd);
      body.on('close', onClose);
    });
  }

  close(): void {
    clearInterval(this.#clock);
  }

  #expire(): void {
    const now = performance.now();
    for (const pending of this.#pending) {
      if (pending.deadline > now) return;
      pending.fail(new S2Error('request_timeout', 'The request body did not arrive in time.'));
    }
  }
}

const EMPTY = Buffer.alloc(0);
