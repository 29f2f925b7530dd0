import { ByteWriter } from '@millrace/core/byte-writer';
import { fieldSize, varintSize, writeTag, writeVarint } from './record-fields.ts';

const TWO_32 = 4_294_967_296;

/**
 * Writes SequencedRecords that share a timestamp and one header, whose value is a prefix and a number. What does not
 * change from record to record is encoded once. HOT PATH (write).
 */
export class NumberedRecordWriter {
  readonly #out: ByteWriter;
  readonly #nameSize: number;
  /** Timestamp field and header tag; header name field and value tag. */
  readonly #beforeHeader: Buffer;
  readonly #beforeValue: Buffer;
  #prefix: Buffer = Buffer.alloc(0);

  constructor(out: ByteWriter, timestamp: bigint, headerName: Uint8Array) {
    this.#out = out;
    this.#nameSize = headerName.length;
    const before = new ByteWriter(64);
    before.reserve(32);
    writeTag(before, 0x10);
    writeVarint(before, Number(timestamp & 0xffff_ffffn), Number(timestamp >> 32n));
    writeTag(before, 0x1a);
    this.#beforeHeader = before.take();
    const name = new ByteWriter(64 + headerName.length);
    name.reserve(16);
    writeTag(name, 0x0a);
    writeVarint(name, headerName.length, 0);
    name.bytes(headerName);
    name.u8(0x12);
    this.#beforeValue = name.take();
  }

  /** The header value of the records that follow starts with this ASCII text. */
  prefix(text: string): void {
    this.#prefix = Buffer.from(text, 'latin1');
  }

  /** One record with header value `<prefix><number><suffix>` and body[start, end). Returns its metered bytes. */
  write(seqNum: number, number: number, suffix: Buffer | null, body: Buffer, start: number, end: number): number {
    const out = this.#out;
    const prefix = this.#prefix;
    const magnitude = Math.abs(number);
    let digits = number < 0 ? 2 : 1;
    for (let rest = magnitude; rest >= 10; rest = Math.floor(rest / 10)) digits++;
    const valueSize = prefix.length + digits + (suffix === null ? 0 : suffix.length);
    const headerSize = this.#beforeValue.length + varintSize(valueSize, 0) + valueSize;
    const seqLow = seqNum >>> 0;
    const seqHigh = Math.floor(seqNum / TWO_32);
    const bodySize = end - start;
    const size =
      1 +
      varintSize(seqLow, seqHigh) +
      this.#beforeHeader.length +
      varintSize(headerSize, 0) +
      headerSize +
      fieldSize(bodySize);
    out.reserve(size + 8);
    writeTag(out, 0x0a);
    writeVarint(out, size, 0);
    writeTag(out, 0x08);
    writeVarint(out, seqLow, seqHigh);
    out.bytes(this.#beforeHeader);
    writeVarint(out, headerSize, 0);
    out.bytes(this.#beforeValue);
    writeVarint(out, valueSize, 0);
    out.bytes(prefix);
    let at = out.length + digits;
    out.length = at;
    let rest = magnitude;
    do {
      const next = Math.floor(rest / 10);
      out.buffer[--at] = 48 + rest - next * 10;
      rest = next;
    } while (rest > 0);
    if (number < 0) out.buffer[--at] = 0x2d;
    if (suffix !== null) out.bytes(suffix);
    if (bodySize > 0) {
      writeTag(out, 0x22);
      writeVarint(out, bodySize, 0);
      out.copy(body, start, end);
    }
    return 10 + this.#nameSize + valueSize + bodySize;
  }
}
