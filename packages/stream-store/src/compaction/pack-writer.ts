import { MillraceError } from '@millrace/core/error';
import { BATCH_HEADER_BYTES, BatchHead, KIND_BATCH } from '../entries.ts';
import { type BatchRun, BatchTable } from '../index/batch-table.ts';
import { SealedIndex } from '../index/sealed-index.ts';
import { indexName, segmentPath } from '../journal/file-names.ts';
import { type File, type FileSystem, replaceFile, writeAll } from '../journal/file-system.ts';
import type { Journal } from '../journal/journal.ts';
import {
  checkEntry,
  ENTRY_HEADER_BYTES,
  encodeSegmentHeader,
  SEGMENT_HEADER_BYTES,
} from '../journal/segment-format.ts';
import { COMPACTION_BATCHES_MAX, COMPACTION_BUFFER_BYTES_MAX, PACK_BYTES_MAX } from '../limits.ts';
import type { CompactionThrottle } from './throttle.ts';

/** One read, one write: what is between two looks at the clock. */
const SPAN_BYTES = 1_048_576;
/** Batches at most this far apart in a file are read in one go. */
const GAP_BYTES_MAX = 16 * 1024;
/** Written but not synced, so that no sync of the journal has to wait for a whole pack. */
const UNSYNCED_BYTES_MAX = 16 * 1_048_576;

export interface WrittenPack {
  readonly file: number;
  readonly bytes: number;
  /** By stream, in order of ids. */
  readonly streamIds: Float64Array;
  readonly firstSeqs: Float64Array;
  readonly lastArrivalsMs: Float64Array;
}

export interface PackWriterOptions {
  readonly fileSystem: FileSystem;
  readonly journal: Journal;
  readonly throttle: CompactionThrottle;
  readonly takePack: () => number;
  /** Of all files the batches come from. */
  readonly inputBytes: number;
  readonly progress: (readBytes: number, writtenBytes: number) => void;
}

/**
 * Writes batches, given in order of streams and sequence numbers, into packs. Entries are copied byte for byte, with the
 * checksum they were appended with, which is checked on the way. Batches are gathered until the buffer is full, read in
 * the order in which they lie in their files, and written in the order in which they were given.
 */
export class PackWriter {
  /** Finished: durable with their index files, but no part of the store. */
  readonly packs: WrittenPack[] = [];
  readonly #options: PackWriterOptions;
  #buffer: Buffer | null = null;
  // The batches gathered, by columns: where they come from, and the size with the entry's header.
  readonly #files: Uint32Array;
  readonly #offsets: Uint32Array;
  readonly #sizes: Uint32Array;
  readonly #targets: Uint32Array;
  readonly #ids: Float64Array;
  readonly #seqs: Float64Array;
  #count = 0;
  #bytes = 0;
  #pack: OpenPack | null = null;
  readonly #head = new BatchHead();

  constructor(options: PackWriterOptions) {
    this.#options = options;
    // As many as there can be in the files, and no more than are gathered at a time.
    const most = Math.ceil(options.inputBytes / (ENTRY_HEADER_BYTES + BATCH_HEADER_BYTES));
    const size = Math.min(COMPACTION_BATCHES_MAX, most);
    this.#files = new Uint32Array(size);
    this.#offsets = new Uint32Array(size);
    this.#sizes = new Uint32Array(size);
    this.#targets = new Uint32Array(size);
    this.#ids = new Float64Array(size);
    this.#seqs = new Float64Array(size);
  }

  /** The batches of a run from place `from` on. */
  async add(id: number, run: BatchRun, from: number): Promise<void> {
    const { table } = run;
    for (let at = from; at < run.length; at++) {
      const row = run.row(at);
      const size = ENTRY_HEADER_BYTES + table.payloadBytes[row]!;
      let pack = this.#pack;
      if (pack === null || (pack.end + size > PACK_BYTES_MAX && pack.end > SEGMENT_HEADER_BYTES)) {
        await this.#finishPack();
        pack = await this.#openPack();
      }
      if (this.#count === this.#files.length || this.#bytes + size > COMPACTION_BUFFER_BYTES_MAX) await this.#flush();
      const place = this.#count++;
      this.#files[place] = run.segment;
      this.#offsets[place] = table.offset[row]!;
      this.#sizes[place] = size;
      this.#targets[place] = this.#bytes;
      this.#ids[place] = id;
      this.#seqs[place] = table.firstSeq[row]!;
      this.#bytes += size;
      pack.add(id, table, row);
    }
  }

  /** The last pack too is finished. */
  async finish(): Promise<void> {
    await this.#finishPack();
  }

  /** Gives up: what is open is closed and all files are removed, as far as that works. */
  async abandon(): Promise<void> {
    const { fileSystem, journal } = this.#options;
    if (this.#pack !== null) {
      await this.#pack.file.close().catch(() => {});
      await fileSystem.unlink(`${segmentPath(journal.dir, this.#pack.number)}.tmp`).catch(() => {});
    }
    for (const { file } of this.packs) {
      const path = segmentPath(journal.dir, file);
      for (const left of [`${path}.tmp`, path, `${journal.dir}/${indexName(file)}`]) {
        await fileSystem.unlink(left).catch(() => {});
      }
    }
  }

  async #openPack(): Promise<OpenPack> {
    const { fileSystem, journal, takePack } = this.#options;
    const number = takePack();
    const file = await fileSystem.open(`${segmentPath(journal.dir, number)}.tmp`, 'create');
    const pack = new OpenPack(number, file);
    this.#pack = pack;
    const { journalId, marker } = journal;
    await writeAll(file, [encodeSegmentHeader({ journalId, segment: number, marker })], 0);
    return pack;
  }

  async #finishPack(): Promise<void> {
    const pack = this.#pack;
    if (pack === null) return;
    await this.#flush();
    const { fileSystem, journal, throttle } = this.#options;
    const path = segmentPath(journal.dir, pack.number);
    await pack.file.datasync();
    this.packs.push(pack.written());
    this.#pack = null;
    await pack.file.close();
    await fileSystem.rename(`${path}.tmp`, path);
    await fileSystem.syncDir(journal.dir);
    const identity = { journalId: journal.journalId, segment: pack.number, segmentBytes: pack.end };
    const index = SealedIndex.encodeGrouped(identity, pack.table, pack.grouped());
    await replaceFile(fileSystem, journal.dir, indexName(pack.number), index);
    await throttle.take(index.length);
  }

  /** Reads what was gathered and appends it to the pack. */
  async #flush(): Promise<void> {
    const pack = this.#pack;
    if (pack === null || this.#count === 0) return;
    this.#buffer ??= Buffer.allocUnsafeSlow(Math.min(COMPACTION_BUFFER_BYTES_MAX, this.#options.inputBytes));
    for (const file of new Set(this.#files.subarray(0, this.#count))) await this.#readFrom(file);
    const { throttle, progress } = this.#options;
    for (let at = 0; at < this.#bytes; at += SPAN_BYTES) {
      const part = this.#buffer.subarray(at, Math.min(at + SPAN_BYTES, this.#bytes));
      await writeAll(pack.file, [part], pack.writtenEnd);
      pack.writtenEnd += part.length;
      pack.unsynced += part.length;
      if (pack.unsynced >= UNSYNCED_BYTES_MAX) {
        await pack.file.datasync();
        pack.unsynced = 0;
      }
      progress(0, part.length);
      await throttle.take(part.length);
    }
    this.#count = 0;
    this.#bytes = 0;
  }

  async #readFrom(file: number): Promise<void> {
    const places = this.#placesIn(file);
    for (let from = 0; from < places.length; ) {
      const start = this.#offsets[places[from]!]!;
      let end = start + this.#sizes[places[from]!]!;
      let to = from + 1;
      for (; to < places.length; to++) {
        const offset = this.#offsets[places[to]!]!;
        const next = offset + this.#sizes[places[to]!]!;
        if (offset - end > GAP_BYTES_MAX || next - start > SPAN_BYTES) break;
        end = next;
      }
      await this.#readSpan(file, start, end, places.subarray(from, to));
      from = to;
    }
  }

  /** Those gathered from one file, by offset. */
  #placesIn(file: number): Uint32Array {
    let size = 0;
    for (let i = 0; i < this.#count; i++) if (this.#files[i] === file) size++;
    // Sorted as numbers, which typed arrays do natively: the offset above, the place below.
    const keys = new Float64Array(size);
    for (let i = 0, at = 0; i < this.#count; i++) {
      if (this.#files[i] === file) keys[at++] = this.#offsets[i]! * COMPACTION_BATCHES_MAX + i;
    }
    keys.sort();
    const places = new Uint32Array(size);
    for (let i = 0; i < size; i++) places[i] = keys[i]! % COMPACTION_BATCHES_MAX;
    return places;
  }

  async #readSpan(file: number, start: number, end: number, places: Uint32Array): Promise<void> {
    const { journal, throttle, progress } = this.#options;
    const span = Buffer.allocUnsafeSlow(end - start);
    if (!(await journal.read(file, span, start))) throw this.#damaged(file, start, 'is missing or ends before');
    for (const place of places) {
      const at = this.#offsets[place]! - start;
      const size = this.#sizes[place]!;
      if (checkEntry(span, at, journal.marker) !== size - ENTRY_HEADER_BYTES || !this.#isMeant(span, at, place)) {
        throw this.#damaged(file, this.#offsets[place]!, 'has a damaged entry');
      }
      span.copy(this.#buffer!, this.#targets[place]!, at, at + size);
    }
    progress(span.length, 0);
    await throttle.take(span.length);
  }

  #isMeant(span: Buffer, at: number, place: number): boolean {
    const start = at + ENTRY_HEADER_BYTES;
    if (span[start] !== KIND_BATCH) return false;
    const head = this.#head;
    head.read(span.subarray(start, at + this.#sizes[place]!));
    return head.streamId === this.#ids[place] && head.firstSeqNum === this.#seqs[place];
  }

  #damaged(file: number, offset: number, what: string): MillraceError {
    return new MillraceError('storage_corrupt', {
      detail: `${segmentPath(this.#options.journal.dir, file)} ${what} at offset ${offset}.`,
      hint: 'Restore the data directory from a copy. Nothing was changed.',
    });
  }
}

/** A pack being filled: what its index will say. */
class OpenPack {
  readonly number: number;
  readonly file: File;
  readonly table = new BatchTable(1024);
  readonly #streamIds: number[] = [];
  /** Row each stream begins with. */
  readonly #starts: number[] = [];
  /** With all that was added; `writtenEnd` is how far the file is written. */
  end = SEGMENT_HEADER_BYTES;
  writtenEnd = SEGMENT_HEADER_BYTES;
  unsynced = 0;

  constructor(number: number, file: File) {
    this.number = number;
    this.file = file;
  }

  add(id: number, from: BatchTable, row: number): void {
    const { table } = this;
    if (this.#streamIds.at(-1) !== id) {
      this.#streamIds.push(id);
      this.#starts.push(table.length);
    }
    const payloadBytes = from.payloadBytes[row]!;
    table.push(
      from.firstSeq[row]!,
      from.count[row]!,
      from.timestamp[row]!,
      from.arrivalMs[row]!,
      from.meteredBytes[row]!,
      this.end,
      payloadBytes,
    );
    this.end += ENTRY_HEADER_BYTES + payloadBytes;
  }

  grouped(): { streamIds: Float64Array; starts: Uint32Array; rows: Uint32Array } {
    const rows = new Uint32Array(this.table.length);
    for (let i = 0; i < rows.length; i++) rows[i] = i;
    return {
      streamIds: Float64Array.from(this.#streamIds),
      starts: Uint32Array.from([...this.#starts, this.table.length]),
      rows,
    };
  }

  written(): WrittenPack {
    const { table } = this;
    const streams = this.#streamIds.length;
    const firstSeqs = new Float64Array(streams);
    const lastArrivalsMs = new Float64Array(streams);
    for (let i = 0; i < streams; i++) {
      firstSeqs[i] = table.firstSeq[this.#starts[i]!]!;
      lastArrivalsMs[i] = table.arrivalMs[(this.#starts[i + 1] ?? table.length) - 1]!;
    }
    return {
      file: this.number,
      bytes: this.end,
      streamIds: Float64Array.from(this.#streamIds),
      firstSeqs,
      lastArrivalsMs,
    };
  }
}
