import type { Readable, Writable } from 'node:stream';
import { ByteWriter } from '@millrace/core/byte-writer';
import { FRAME_BYTES_MAX } from '../limits.ts';
import type { AppendAck } from '../model.ts';
import { S2Error } from '../s2-error.ts';
import type { AppendInput, Stream } from '../store.ts';
import { readProtoAppendInput } from './append-input.ts';
import { decodePayload } from './content-coding.ts';
import { errorBody, toS2Error } from './error-body.ts';
import { SESSION_INFLIGHT_BATCHES_MAX, SESSION_INFLIGHT_BYTES_MAX, SESSION_UNSENT_ACK_BYTES_MAX } from './limits.ts';
import type { AppendMetering } from './metering.ts';
import type { HttpMetrics } from './prometheus.ts';
import { writeAppendAck } from './read-batch.ts';
import {
  COMPRESSION_NONE,
  encodeTerminalFrame,
  FLAG_COMPRESSION,
  FLAG_RECONNECT,
  FLAG_TERMINAL,
  FRAME_HEAD_BYTES,
  type FrameBufferPool,
  FrameDecoder,
  writeFrameHead,
} from './s2s-frame.ts';

export interface AppendSessionOptions {
  readonly stream: Stream;
  readonly input: Readable;
  readonly output: Writable;
  readonly pool: FrameBufferPool;
  readonly metrics: HttpMetrics;
  readonly metering: AppendMetering;
  /** Throws permission_denied for a batch whose commands the client may not give. */
  readonly authorize: (input: AppendInput) => void;
  readonly onFailure: (error: unknown) => void;
}

/** A batch handed to the store, in the order of the session. */
interface Pending {
  ack: AppendAck | null;
  error: unknown;
  readonly settledBytes: number;
  readonly startedAt: number;
}

/**
 * One S2S append session: frames in, acknowledgements out, both in order, any number in flight. HOT PATH.
 *
 * The first batch that fails poisons the session: nothing after it is handed to the store, the acknowledgements before
 * it go out, then a terminal frame with the error. So do frames and batches that cannot be read. When the client
 * half-closes, the outstanding acknowledgements are sent and the response ends without a terminal frame. When the
 * client is cut off, what was handed over may still become durable: nobody is told.
 */
export class AppendSession {
  readonly #stream: Stream;
  readonly #input: Readable;
  readonly #output: Writable;
  readonly #decoder: FrameDecoder;
  readonly #metrics: HttpMetrics;
  readonly #metering: AppendMetering;
  readonly #authorize: (input: AppendInput) => void;
  readonly #onFailure: (error: unknown) => void;
  readonly #acks = new ByteWriter(256);
  readonly #cut = new AbortController();

  /** Oldest first from #pendingHead on. */
  #pending: Pending[] = [];
  #pendingHead = 0;
  #inflightBytes = 0;
  #flushScheduled = false;
  /** A frame is being decompressed or waits for room. */
  #pumping = false;
  readonly #backlog: Buffer[] = [];
  /** No further frame is taken: half-closed, poisoned, draining or cut. */
  #closed = false;
  #inputEnded = false;
  /** Sent as the terminal frame once everything before it is acknowledged. */
  #failure: S2Error | null = null;
  #reconnectFlag = 0;
  #done = false;
  #resume: (() => void) | null = null;

  constructor(options: AppendSessionOptions) {
    this.#stream = options.stream;
    this.#input = options.input;
    this.#output = options.output;
    this.#metrics = options.metrics;
    this.#metering = options.metering;
    this.#authorize = options.authorize;
    this.#onFailure = options.onFailure;
    this.#decoder = new FrameDecoder(options.pool);
    this.#input.on('data', (chunk: Buffer) => this.#onData(chunk));
    this.#input.on('end', () => this.#onEnd());
    this.#input.on('error', () => this.cut());
    this.#output.on('drain', () => this.#resume?.());
    // An HTTP/2 request without a body has ended by itself before anybody listened.
    if (this.#input.readableEnded) this.#onEnd();
  }

  /** Takes no more frames; acknowledges what was taken, advises the client to reconnect and says why. */
  drain(): void {
    if (this.#done) return;
    this.#reconnectFlag = FLAG_RECONNECT;
    this.#poison(new S2Error('server_draining', 'The server is shutting down.'));
    this.#scheduleFlush();
  }

  /** The client is gone. */
  cut(): void {
    if (this.#done) return;
    this.#finish();
    this.#cut.abort();
  }

  #onData(chunk: Buffer): void {
    if (this.#closed) return;
    if (this.#pumping) {
      // A frame is waiting for room: one chunk is kept, and no more are asked for.
      this.#input.pause();
      this.#backlog.push(chunk);
      return;
    }
    this.#decoder.push(chunk);
    this.#pump();
  }

  #onEnd(): void {
    this.#inputEnded = true;
    this.#closeIfEnded();
  }

  #closeIfEnded(): void {
    if (!this.#inputEnded || this.#pumping || this.#closed) return;
    if (this.#decoder.partial) this.#poison(new S2Error('bad_frame', 'The last frame is incomplete.'));
    this.#closed = true;
    this.#scheduleFlush();
  }

  /** Takes the next frame of the chunk, if it is all there; what follows is in #goOn. */
  #pump(): void {
    try {
      if (!this.#closed && this.#decoder.next()) {
        const flag = this.#decoder.flag;
        if ((flag & FLAG_TERMINAL) !== 0) throw new S2Error('bad_frame', 'A client does not send terminal frames.');
        const compression = flag & FLAG_COMPRESSION;
        if (compression !== COMPRESSION_NONE) {
          const decoded = decodePayload(compression, this.#decoder.payload, FRAME_BYTES_MAX - 1);
          this.#waitFor(decoded.then((payload) => this.#admit(payload)));
        } else {
          this.#waitFor(this.#admit(this.#decoder.payload));
        }
      }
    } catch (error) {
      this.#poison(error);
      this.#scheduleFlush();
    }
  }

  #waitFor(work: Promise<void>): void {
    this.#pumping = true;
    work.then(this.#goOn, (error: unknown) => {
      this.#poison(error);
      this.#goOn();
    });
  }

  readonly #goOn = (): void => {
    this.#pumping = false;
    while (!this.#closed) {
      this.#pump();
      if (this.#pumping) return;
      const next = this.#backlog.shift();
      if (next === undefined) break;
      if (!this.#closed) this.#decoder.push(next);
    }
    if (this.#input.isPaused()) this.#input.resume();
    if (this.#closed) this.#scheduleFlush();
    else this.#closeIfEnded();
  };

  #admit(payload: Buffer): Promise<void> {
    const input = readMessage(payload);
    this.#authorize(input);
    const startedAt = performance.now();
    const { throttle } = this.#metering;
    const waitMs = throttle === null ? 0 : throttle.appendWaitMs(input.scan.meteredBytes);
    if (waitMs > 0 || !this.#hasRoom(payload.length)) return this.#admitLater(payload, input, startedAt, waitMs);
    return this.#stream.admit(payload.length, this.#cut.signal).then(() => this.#append(payload, input, startedAt));
  }

  async #admitLater(payload: Buffer, input: AppendInput, startedAt: number, waitMs: number): Promise<void> {
    for (let leftMs = waitMs; leftMs > 0 && !this.#closed; leftMs = waitMs - (performance.now() - startedAt)) {
      await new Promise<void>((resolve) => {
        const timer = setTimeout(resolve, leftMs);
        // Also at every acknowledgement, which is no reason to go on.
        this.#resume = () => {
          clearTimeout(timer);
          resolve();
        };
      });
      this.#resume = null;
    }
    while (!this.#hasRoom(payload.length) && !this.#closed) {
      await new Promise<void>((resolve) => (this.#resume = resolve));
      this.#resume = null;
    }
    if (this.#closed) return;
    await this.#stream.admit(payload.length, this.#cut.signal);
    this.#append(payload, input, startedAt);
  }

  #hasRoom(bytes: number): boolean {
    return (
      this.#pending.length - this.#pendingHead < SESSION_INFLIGHT_BATCHES_MAX &&
      (this.#inflightBytes === 0 || this.#inflightBytes + bytes <= SESSION_INFLIGHT_BYTES_MAX) &&
      this.#output.writableLength < SESSION_UNSENT_ACK_BYTES_MAX
    );
  }

  #append(payload: Buffer, input: AppendInput, startedAt: number): void {
    if (this.#closed) return;
    this.#metrics.appendPermitLatency.observe((performance.now() - startedAt) / 1000);
    const pending: Pending = { ack: null, error: undefined, settledBytes: payload.length, startedAt };
    const before = this.#stream.assignedSeqNum;
    const { count, meteredBytes } = input.scan;
    const appended = this.#stream.append(input);
    // The store sequences before it returns, so a batch it refused shows at once. Its error may take until the state it
    // reports is durable; the batches behind it must not be handed over meanwhile.
    if (this.#stream.assignedSeqNum !== before + count) this.#closed = true;
    this.#pending.push(pending);
    this.#inflightBytes += payload.length;
    appended.then(
      (ack) => {
        pending.ack = ack;
        this.#metrics.appendAckLatency.observe((performance.now() - startedAt) / 1000);
        this.#metrics.appendBatchRecords.observe(count);
        this.#metrics.appendBatchBytes.observe(meteredBytes);
        this.#metering.appended(meteredBytes);
        this.#settled(pending);
      },
      (error: unknown) => {
        pending.error = error ?? new Error('an append failed without a reason');
        this.#closed = true;
        this.#settled(pending);
      },
    );
  }

  #settled(pending: Pending): void {
    this.#inflightBytes -= pending.settledBytes;
    this.#resume?.();
    this.#scheduleFlush();
  }

  #poison(error: unknown): void {
    this.#closed = true;
    // Of a client that is gone nobody is told, and what ended with it is no failure.
    if (this.#failure !== null || this.#done) return;
    this.#failure = toS2Error(error);
    if (this.#failure !== error) this.#onFailure(error);
    this.#resume?.();
  }

  /** Acknowledgements of one group commit settle one after another: they leave in one write at the end of the turn. */
  #scheduleFlush(): void {
    if (this.#flushScheduled || this.#done) return;
    this.#flushScheduled = true;
    process.nextTick(() => {
      this.#flushScheduled = false;
      this.#flush();
    });
  }

  #flush(): void {
    if (this.#done) return;
    const pending = this.#pending;
    const acks = this.#acks;
    let head = this.#pendingHead;
    let failed: unknown;
    while (head < pending.length) {
      const next = pending[head]!;
      if (next.error !== undefined) {
        failed = next.error;
        break;
      }
      if (next.ack === null) break;
      head++;
      const frameAt = acks.length;
      acks.reserve(FRAME_HEAD_BYTES);
      acks.length += FRAME_HEAD_BYTES;
      writeAppendAck(acks, next.ack);
      writeFrameHead(acks.buffer, frameAt, this.#reconnectFlag, acks.length - frameAt - FRAME_HEAD_BYTES);
    }
    if (head === pending.length) {
      pending.length = head = 0;
    } else if (head > 1024) {
      pending.splice(0, head);
      head = 0;
    }
    this.#pendingHead = head;
    if (acks.length > 0) {
      // Copied: the stream keeps what it is given until it is sent.
      this.#output.write(Buffer.from(acks.view()));
      acks.rewind(0);
    }
    if (failed !== undefined) {
      // Takes precedence over what was found in a frame behind it.
      this.#failure = null;
      this.#poison(failed);
      this.#terminate();
    } else if (this.#closed && !this.#pumping && head === pending.length) {
      this.#terminate();
    }
  }

  #terminate(): void {
    this.#finish();
    const failure = this.#failure;
    if (failure === null) this.#output.end();
    else this.#output.end(encodeTerminalFrame(failure.status, errorBody(failure)));
    // What the client still sends is read and dropped.
    this.#input.resume();
  }

  #finish(): void {
    this.#done = true;
    this.#closed = true;
    this.#resume?.();
    if (!this.#pumping) this.#decoder.release();
  }
}

function readMessage(payload: Buffer): AppendInput {
  try {
    return readProtoAppendInput(payload);
  } catch (error) {
    // In a session there is no telling a broken message from a broken frame.
    if (error instanceof S2Error && error.code === 'bad_proto') {
      throw new S2Error('bad_frame', 'A frame does not hold an AppendInput message.', { cause: error });
    }
    throw error;
  }
}
