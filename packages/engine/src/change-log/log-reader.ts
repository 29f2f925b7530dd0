/** Reads the change log forward, record by record, as far as it is durable. */
import { RecordCursor } from '@millrace/stream-store/record-cursor';
import { type ChangeLog, overrun } from './change-log.ts';

/** One record of the log: a chunk (chunk.ts) at bytes[start, end). The bytes stay valid. */
export interface LogChunk {
  readonly seq: number;
  readonly bytes: Buffer;
  readonly start: number;
  readonly end: number;
}

const MANY = { countMax: 1000, meteredBytesMax: 1 << 21 };
/** Large chunks are taken one by one: as they are in memory, without being put together first. */
const ONE = { countMax: 1, meteredBytesMax: 1 << 21 };
const LARGE_CHUNK_BYTES = 128 * 1024;

export class LogReader {
  readonly #log: ChangeLog;
  #seq: number;
  #large = false;
  #cursor: RecordCursor | null = null;
  #bytes: Buffer = Buffer.alloc(0);

  constructor(log: ChangeLog, fromSeq: number) {
    this.#log = log;
    this.#seq = fromSeq;
  }

  get seq(): number {
    return this.#seq;
  }

  /** The next chunk, or null at the durable end of the log. */
  async next(): Promise<LogChunk | null> {
    if (this.#cursor === null || !this.#cursor.next()) {
      if (this.#seq >= this.#log.durableSeq) return null;
      const slice = await this.#log.stream.read(this.#seq, this.#large ? ONE : MANY);
      if (slice === null) return null;
      const { buffer, byteOffset, byteLength } = slice.records;
      this.#bytes = Buffer.from(buffer, byteOffset, byteLength);
      this.#cursor = new RecordCursor(slice.records);
      if (!this.#cursor.next()) return null;
    }
    const seq = this.#cursor.seqNum;
    if (seq !== this.#seq) throw overrun();
    this.#seq = seq + 1;
    this.#large = this.#cursor.bodyEnd - this.#cursor.bodyStart >= LARGE_CHUNK_BYTES;
    return { seq, bytes: this.#bytes, start: this.#cursor.bodyStart, end: this.#cursor.bodyEnd };
  }
}
