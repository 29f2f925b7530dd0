import type { KeyObject } from 'node:crypto';
import { assert } from '@millrace/core/assert';
import type { AppendAck, StorageClass, StreamCipher, StreamPosition } from '../model.ts';
import { S2Error } from '../s2-error.ts';
import type { AppendInput, ReadLimits, ReadSlice, SequencedInput, Stream } from '../store.ts';
import type { RecordCipher } from './record-cipher.ts';
import { RecordSealer, SEALED_GROWTH, SEALED_OVERHEAD_BYTES } from './sealed-records.ts';

/**
 * A stream with a cipher, seen with a client's key: records are sealed on their way in and opened on their way out, so
 * the store underneath never holds one in the clear. All sizes are those of the records as the client wrote them. Lives
 * as long as the request or session that brought the key.
 */
export class EncryptedStream implements Stream {
  readonly #stream: Stream;
  readonly #sealer: RecordSealer;

  constructor(stream: Stream, cipher: RecordCipher, key: KeyObject) {
    this.#stream = stream;
    this.#sealer = new RecordSealer(cipher, key, stream.id);
  }

  get id(): number {
    return this.#stream.id;
  }

  get basin(): string {
    return this.#stream.basin;
  }

  get name(): string {
    return this.#stream.name;
  }

  get cipher(): StreamCipher | null {
    return this.#stream.cipher;
  }

  get storageClass(): StorageClass {
    return this.#stream.storageClass;
  }

  get tail(): StreamPosition {
    return this.#stream.tail;
  }

  get firstSeqNum(): number {
    return this.#stream.firstSeqNum;
  }

  get assignedSeqNum(): number {
    return this.#stream.assignedSeqNum;
  }

  /** Nothing is awaited before the store has sequenced the batch: the numbers it is sealed for are the ones it gets. */
  async append(input: AppendInput): Promise<AppendAck> {
    const firstSeqNum = this.#stream.assignedSeqNum;
    const records = this.#sealer.seal(input.records, input.scan.count, firstSeqNum);
    const ack = await this.#stream.append({ ...input, records, sealed: true });
    assert(ack.start.seqNum === firstSeqNum, 'a sealed batch gets the sequence numbers it was sealed for');
    return ack;
  }

  /** Writers in this process have no key. */
  appendSequenced(_input: SequencedInput): Promise<AppendAck> {
    return Promise.reject(new S2Error('not_implemented', 'An encrypted stream takes no sequenced batches.'));
  }

  admit(bytes: number, signal?: AbortSignal): Promise<void> {
    return this.#stream.admit(bytes, signal);
  }

  async read(seqNum: number, limits: ReadLimits): Promise<ReadSlice | null> {
    // The store counts the bytes of a batch it cuts as stored, so it may return less than would fit, which is allowed,
    // or nothing at all: then the first record alone decides.
    const stored =
      (await this.#stream.read(seqNum, limits)) ??
      (await this.#stream.read(seqNum, {
        ...limits,
        countMax: Math.min(1, limits.countMax),
        meteredBytesMax: limits.meteredBytesMax * SEALED_GROWTH + SEALED_OVERHEAD_BYTES,
      }));
    if (stored === null) return null;
    try {
      return this.#sealer.open(stored, limits);
    } finally {
      stored.release?.();
    }
  }

  findTimestamp(timestamp: bigint): Promise<number> {
    return this.#stream.findTimestamp(timestamp);
  }

  waitBeyond(seqNum: number, signal: AbortSignal): Promise<'records' | 'deleted' | 'aborted'> {
    return this.#stream.waitBeyond(seqNum, signal);
  }

  trim(seqNum: number): Promise<void> {
    return this.#stream.trim(seqNum);
  }
}
