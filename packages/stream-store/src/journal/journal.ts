import { assert } from '@millrace/core/assert';
import { ByteWriter } from '@millrace/core/byte-writer';
import { MillraceError } from '@millrace/core/error';
import type { FileObserver } from '../compaction/file-observer.ts';
import { indexPath, segmentPath } from './file-names.ts';
import { type File, type FileSystem, ignoreMissing, writeAll } from './file-system.ts';
import type { RemoteFiles } from './remote-files.ts';
import type { JournalReplica } from './replica.ts';
import { SegmentFiles } from './segment-files.ts';
import {
  ENTRY_BYTES_MAX,
  ENTRY_HEADER_BYTES,
  encodeSegmentHeader,
  GROUP_BYTES_MAX,
  SEGMENT_HEADER_BYTES,
  writeEntryHeader,
} from './segment-format.ts';

/*
 * The append-only journal (format: segment-format.ts, opening: recover.ts). HOT PATH: begin, commit and the group loop.
 *
 * Group commit without a timer: what is staged while one group is being written and synced is the next group, whose
 * write starts as soon as the sync returned. A commit is told it is durable only after fdatasync. Any failure of a
 * write or sync is final: the journal is dead, everything staged fails with the same error, nothing is retried, because
 * after a failed fsync nobody knows what the disk holds.
 *
 * A segment is extended to its full size with a hole when it is created, which took the file size out of every
 * fdatasync: 0.22 to 0.18 ms for small groups, 3.6 to 0.8 ms for 1 MiB ones (bench/journal.ts). Filling it with zeros
 * beforehand gains another 0.1 ms and writes everything twice; not worth it.
 */

/** Where an entry lies, told to its commit. One object is reused for all calls: copy what you keep. */
export interface EntryPlace {
  segment: number;
  /** Of the entry's header in its segment. */
  offset: number;
  payloadBytes: number;
  /** The payload as written, except its external part, at buffer[start, end). Valid during the call only. */
  buffer: Buffer;
  start: number;
  end: number;
}

/** What a writer of an entry waits with. Exactly one of the two is called, once, in the order of commits. */
export interface Commit {
  durable(place: EntryPlace): void;
  failed(error: MillraceError): void;
}

export interface JournalHooks {
  /**
   * A new segment is being made, everything before it is durable and told. Returns entries (payloads) that it is to
   * begin with; they are durable before anything else is in it.
   */
  startSegment(segment: number): readonly Uint8Array[];
  /** `segment` will not change any more; its successor is durable. */
  segmentSealed(segment: number, bytes: number): void;
  /** After all commits of one group were told. */
  groupDurable(): void;
}

/** What recovery found, for a journal to go on from. */
export interface JournalTip {
  readonly journalId: string;
  readonly marker: number;
  readonly firstSegment: number;
  readonly segment: number;
  readonly file: File;
  readonly end: number;
  /** Sealed segments from `firstSegment` on, with their bytes. */
  readonly sealedSegments: ReadonlyMap<number, number>;
}

export interface JournalOptions {
  readonly dir: string;
  readonly fileSystem: FileSystem;
  readonly segmentBytes: number;
  /** Where sealed files are that are not in `dir`; null: nowhere. */
  readonly remote?: RemoteFiles | null | undefined;
  /** Who is told what becomes of the files; null: nobody. */
  readonly observer?: FileObserver | null | undefined;
  /** Where everything has to be durable as well before it is told; null: `dir` is enough. */
  readonly replica?: JournalReplica | null | undefined;
}

class Group {
  readonly writer = new ByteWriter(64 * 1024);
  readonly commits: Commit[] = [];
  /** Of each commit's entry: offset in the group, place in `writer`; -1 for a barrier. */
  readonly offsets: number[] = [];
  readonly starts: number[] = [];
  readonly ends: number[] = [];
  /** Bytes not copied into `writer`, each to be written after the writer's first `cuts[i]` bytes. */
  readonly externals: Uint8Array[] = [];
  readonly cuts: number[] = [];
  bytes = 0;

  parts(): Uint8Array[] {
    const inline = this.writer.view();
    if (this.externals.length === 0) return [inline];
    const parts: Uint8Array[] = [];
    let at = 0;
    for (let i = 0; i < this.externals.length; i++) {
      const cut = this.cuts[i]!;
      if (cut > at) parts.push(inline.subarray(at, cut));
      parts.push(this.externals[i]!);
      at = cut;
    }
    if (at < inline.length) parts.push(inline.subarray(at));
    return parts;
  }

  clear(): void {
    // A group that had to grow keeps its size for the next burst, but not for ever more than a group can hold.
    if (this.writer.buffer.length > 2 * GROUP_BYTES_MAX) this.writer.take(64 * 1024);
    this.writer.length = 0;
    this.commits.length = 0;
    this.offsets.length = 0;
    this.starts.length = 0;
    this.ends.length = 0;
    this.externals.length = 0;
    this.cuts.length = 0;
    this.bytes = 0;
  }
}

/** External parts below this are copied: one more iovec costs more than the copy. */
const EXTERNAL_BYTES_MIN = 4096;

export class Journal {
  readonly dir: string;
  readonly journalId: string;
  readonly marker: number;
  /** Resolves with the error that ended the journal; never otherwise. */
  readonly failed: Promise<MillraceError>;
  readonly #fileSystem: FileSystem;
  readonly #segmentBytes: number;
  readonly #hooks: JournalHooks;
  readonly #files: SegmentFiles;
  readonly #observer: FileObserver | null;
  readonly #replica: JournalReplica | null;
  readonly #resolveFailed: (error: MillraceError) => void;
  readonly #sealedSegments: Map<number, number>;
  #firstSegment: number;
  #segment: number;
  #file: File;
  #end: number;
  #dead: MillraceError | null = null;

  #staging = new Group();
  /** Full groups that wait behind the one in flight. */
  readonly #full: Group[] = [];
  #inFlight: Group | null = null;
  readonly #spare: Group[] = [];
  #running: Promise<void> | null = null;
  #entryAt = -1;
  /** Of those who asked for the segment to be sealed. */
  #sealWaiters: (() => void)[] = [];
  #closed = false;
  #deleting: Promise<void> = Promise.resolve();
  readonly #place: EntryPlace = { segment: 0, offset: 0, payloadBytes: 0, buffer: Buffer.alloc(0), start: 0, end: 0 };

  constructor(options: JournalOptions, tip: JournalTip, hooks: JournalHooks) {
    this.dir = options.dir;
    this.#fileSystem = options.fileSystem;
    this.#segmentBytes = options.segmentBytes;
    this.#hooks = hooks;
    this.journalId = tip.journalId;
    this.marker = tip.marker;
    this.#firstSegment = tip.firstSegment;
    this.#segment = tip.segment;
    this.#file = tip.file;
    this.#end = tip.end;
    this.#sealedSegments = new Map(tip.sealedSegments);
    this.#files = new SegmentFiles(options.fileSystem, options.dir, options.remote ?? null);
    this.#observer = options.observer ?? null;
    this.#replica = options.replica ?? null;
    const failed = Promise.withResolvers<MillraceError>();
    this.failed = failed.promise;
    this.#resolveFailed = failed.resolve;
  }

  get firstSegment(): number {
    return this.#firstSegment;
  }

  /** Bytes of the sealed segments that are there, by number. */
  get sealedSegments(): ReadonlyMap<number, number> {
    return this.#sealedSegments;
  }

  /** The segment being written. */
  get segment(): number {
    return this.#segment;
  }

  /** Where the next group starts in it; everything before is durable. */
  get end(): number {
    return this.#end;
  }

  /** Why the journal takes nothing any more; null while it does. */
  get dead(): MillraceError | null {
    return this.#dead;
  }

  /** True when everything staged is durable and told. */
  get idle(): boolean {
    return this.#inFlight === null && this.#full.length === 0 && this.#staging.commits.length === 0;
  }

  /**
   * Starts an entry: write its payload into the returned writer, then call commit or abandon, without an await in
   * between.
   */
  begin(): ByteWriter {
    if (this.#dead !== null) throw this.#dead;
    assert(!this.#closed, 'a closed journal gets no entries');
    assert(this.#entryAt < 0, 'one entry is staged at a time');
    const writer = this.#staging.writer;
    this.#entryAt = writer.length;
    writer.reserve(ENTRY_HEADER_BYTES + 256);
    writer.length += ENTRY_HEADER_BYTES;
    return writer;
  }

  /** Ends the entry. `external` is the rest of its payload, kept by reference until the commit is told. */
  commit(commit: Commit, external: Uint8Array | null = null): void {
    const group = this.#staging;
    const writer = group.writer;
    const start = this.#entryAt;
    assert(start >= 0, 'an entry is begun before it is committed');
    this.#entryAt = -1;
    let outside = external;
    if (outside !== null && outside.length < EXTERNAL_BYTES_MIN) {
      writer.copy(outside, 0, outside.length);
      outside = null;
    }
    const inline = writer.length - start;
    const outsideBytes = outside === null ? 0 : outside.length;
    assert(inline - ENTRY_HEADER_BYTES + outsideBytes <= ENTRY_BYTES_MAX, 'an entry is within its limit');
    writeEntryHeader(writer.buffer, start, writer.length, this.marker, group.bytes, outside);
    group.commits.push(commit);
    group.offsets.push(group.bytes);
    group.starts.push(start);
    group.ends.push(writer.length);
    if (outside !== null) {
      group.externals.push(outside);
      group.cuts.push(writer.length);
    }
    group.bytes += inline + outsideBytes;
    if (group.bytes >= GROUP_BYTES_MAX) {
      this.#full.push(group);
      this.#staging = this.#spare.pop() ?? new Group();
    }
    this.#running ??= this.#run();
  }

  /** Drops the entry begun. */
  abandon(): void {
    assert(this.#entryAt >= 0, 'an entry is begun before it is abandoned');
    this.#staging.writer.rewind(this.#entryAt);
    this.#entryAt = -1;
  }

  /** Resolves when everything staged so far is durable; rejects when the journal dies before. */
  settled(): Promise<void> {
    if (this.#dead !== null) return Promise.reject(this.#dead);
    if (this.idle) return Promise.resolve();
    const last = this.#staging.commits.length > 0 ? this.#staging : (this.#full.at(-1) ?? this.#inFlight!);
    return new Promise((resolve, reject) => {
      last.commits.push({ durable: () => resolve(), failed: reject });
      last.offsets.push(-1);
      last.starts.push(0);
      last.ends.push(0);
    });
  }

  /**
   * Ends the segment being written although it is not full, so that it can be compacted or uploaded. Resolves when it
   * is sealed; at once when it is empty.
   */
  async sealSegment(): Promise<void> {
    if (this.#dead !== null) throw this.#dead;
    assert(!this.#closed, 'a closed journal seals nothing');
    if (this.#end === SEGMENT_HEADER_BYTES && this.idle) return;
    // Not the end of the group loop, which under a steady load never comes.
    const sealed = new Promise<void>((resolve) => this.#sealWaiters.push(resolve));
    this.#running ??= this.#run();
    await sealed;
    if (this.#dead !== null) throw this.#dead;
  }

  /** Fills `target` from a file; false when the file was deleted. */
  read(file: number, target: Uint8Array, offset: number): Promise<boolean> {
    return this.#files.read(file, target, offset);
  }

  /** Deletes whole segments from the front, oldest first, so that a crash leaves no gap. Never the one being written. */
  deleteBefore(segment: number): Promise<void> {
    const deleting = this.#deleting.then(() => this.#delete(segment));
    this.#deleting = deleting.catch(() => {});
    return deleting;
  }

  async #delete(segment: number): Promise<void> {
    const end = Math.min(segment, this.#segment);
    while (this.#firstSegment < end) {
      const gone = this.#firstSegment;
      this.#observer?.dropped([gone]);
      await this.#unlink(gone);
      // Durably gone before the next is: a missing segment between two others means damage to recovery.
      await this.#fileSystem.syncDir(this.dir);
      this.#sealedSegments.delete(gone);
      this.#firstSegment++;
    }
  }

  /** Deletes packs that are no part of the store any more. */
  deletePacks(files: readonly number[]): Promise<void> {
    const deleting = this.#deleting.then(async () => {
      if (files.length === 0) return;
      this.#observer?.dropped(files);
      for (const file of files) await this.#unlink(file);
      await this.#fileSystem.syncDir(this.dir);
    });
    this.#deleting = deleting.catch(() => {});
    return deleting;
  }

  /** Deletes the file of a segment or pack from `dir` only: its records are read from `remote` from now on. */
  evict(file: number): Promise<void> {
    assert(file !== this.#segment, 'the segment being written stays');
    const evicting = this.#deleting.then(async () => {
      await this.#fileSystem.unlink(segmentPath(this.dir, file)).catch(ignoreMissing);
      this.#files.drop(file);
    });
    this.#deleting = evicting.catch(() => {});
    return evicting;
  }

  async #unlink(file: number): Promise<void> {
    await this.#fileSystem.unlink(indexPath(this.dir, file)).catch(ignoreMissing);
    await this.#fileSystem.unlink(segmentPath(this.dir, file)).catch(ignoreMissing);
    // Afterwards, so that no reader opens it again in between and holds its space.
    this.#files.drop(file);
  }

  /** Makes what was staged durable and closes the files. */
  async close(): Promise<void> {
    if (this.#closed) return;
    this.#closed = true;
    while (this.#running !== null) await this.#running;
    await this.#deleting;
    this.#files.close();
    if (this.#dead !== null) {
      await this.#file.close().catch(() => {});
      return;
    }
    await this.#file.close();
  }

  async #run(): Promise<void> {
    // Once around the event loop: appends of the connections that became readable with the first join its group.
    await new Promise<void>((resolve) => setImmediate(resolve));
    try {
      for (;;) {
        if (this.#sealWaiters.length > 0 && this.#end > SEGMENT_HEADER_BYTES) await this.#roll();
        if (this.#replica !== null && this.#full.length === 0) await this.#replica.pace();
        const group = this.#next();
        if (group === null) break;
        this.#inFlight = group;
        if (this.#end > SEGMENT_HEADER_BYTES && this.#end + group.bytes > this.#segmentBytes) await this.#roll();
        const parts = group.parts();
        await writeAll(this.#file, parts, this.#end);
        await this.#file.datasync();
        if (this.#replica !== null) await this.#replica.write(this.#segment, this.#end, parts);
        if (this.#dead !== null) break;
        this.#tell(group);
        await new Promise<void>((resolve) => setImmediate(resolve));
      }
    } catch (error) {
      this.#die(error);
    }
    this.#running = null;
  }

  #next(): Group | null {
    const full = this.#full.shift();
    if (full !== undefined) return full;
    const group = this.#staging;
    if (group.commits.length === 0) return null;
    this.#staging = this.#spare.pop() ?? new Group();
    return group;
  }

  #tell(group: Group): void {
    const base = this.#end;
    this.#end += group.bytes;
    const place = this.#place;
    place.segment = this.#segment;
    place.buffer = group.writer.buffer;
    const commits = group.commits;
    // A barrier may join while the commits are told, hence the length is read anew.
    for (let i = 0; i < commits.length; i++) {
      const offset = group.offsets[i]!;
      if (offset >= 0) {
        const next = this.#nextOffset(group, i);
        place.offset = base + offset;
        place.payloadBytes = next - offset - ENTRY_HEADER_BYTES;
        place.start = group.starts[i]! + ENTRY_HEADER_BYTES;
        place.end = group.ends[i]!;
      }
      commits[i]!.durable(place);
    }
    this.#inFlight = null;
    this.#hooks.groupDurable();
    group.clear();
    if (this.#spare.length < 2) this.#spare.push(group);
  }

  #nextOffset(group: Group, i: number): number {
    for (let j = i + 1; j < group.offsets.length; j++) if (group.offsets[j]! >= 0) return group.offsets[j]!;
    return group.bytes;
  }

  /** Seals the segment and starts the next. Nothing is in flight, so all that was told lies before. */
  async #roll(): Promise<void> {
    const sealed = this.#segment;
    const bytes = this.#end;
    // The exact size is durable before the successor exists: anything odd in a segment with a successor is damage.
    await this.#file.truncate(bytes);
    await this.#file.datasync();
    const started = await createSegment(
      { dir: this.dir, fileSystem: this.#fileSystem, segmentBytes: this.#segmentBytes, replica: this.#replica },
      { journalId: this.journalId, marker: this.marker, segment: sealed + 1 },
      this.#hooks.startSegment(sealed + 1),
    );
    const old = this.#file;
    this.#file = started.file;
    this.#segment = sealed + 1;
    this.#end = started.end;
    this.#sealedSegments.set(sealed, bytes);
    this.#observer?.sealed(sealed, bytes);
    this.#hooks.segmentSealed(sealed, bytes);
    for (const told of this.#sealWaiters.splice(0)) told();
    await old.close();
  }

  /** Ends the journal from outside: nothing that is not told by now ever is. For who owns what it is written to. */
  fail(error: MillraceError): void {
    if (this.#dead === null) this.#die(error);
  }

  #die(cause: unknown): void {
    if (this.#dead !== null) return;
    const error = storageError(cause, this.dir);
    this.#dead = error;
    const waiting = [this.#inFlight, ...this.#full, this.#staging];
    this.#inFlight = null;
    this.#full.length = 0;
    this.#staging = new Group();
    for (const group of waiting) if (group !== null) for (const commit of group.commits) commit.failed(error);
    for (const told of this.#sealWaiters.splice(0)) told();
    this.#resolveFailed(error);
  }
}

export function storageError(cause: unknown, path: string): MillraceError {
  if (cause instanceof MillraceError) return cause;
  const code = (cause as { code?: unknown } | null)?.code;
  if (code === 'ENOSPC' || code === 'EDQUOT') {
    return new MillraceError('storage_full', {
      detail: path,
      hint: 'Free some space and start again. Nothing that was acknowledged is lost.',
      cause,
    });
  }
  return new MillraceError('storage_failed', {
    detail: `${path}${typeof code === 'string' ? ` (${code})` : ''}`,
    hint: 'Check the disk and start again. Nothing that was acknowledged is lost.',
    cause,
  });
}

/** Writes a segment under a temporary name and renames it, so that a segment which exists has its header and carry. */
export async function createSegment(
  { dir, fileSystem, segmentBytes, replica = null }: JournalOptions,
  header: { readonly journalId: string; readonly marker: number; readonly segment: number },
  carry: readonly Uint8Array[],
): Promise<{ file: File; end: number }> {
  const writer = new ByteWriter(4096);
  writer.bytes(encodeSegmentHeader(header));
  for (const payload of carry) {
    const start = writer.length;
    writer.reserve(ENTRY_HEADER_BYTES);
    writer.length += ENTRY_HEADER_BYTES;
    writer.bytes(payload);
    writeEntryHeader(writer.buffer, start, writer.length, header.marker, start - SEGMENT_HEADER_BYTES, null);
  }
  const temporary = `${dir}/segment.tmp`;
  const path = segmentPath(dir, header.segment);
  await fileSystem.unlink(temporary).catch(ignoreMissing);
  const file = await fileSystem.open(temporary, 'create');
  try {
    await writeAll(file, [writer.view()], 0);
    await file.truncate(Math.max(segmentBytes, writer.length));
    await file.datasync();
    if (replica !== null) await replica.write(header.segment, 0, [writer.view()]);
    await fileSystem.rename(temporary, path);
    await fileSystem.syncDir(dir);
  } catch (error) {
    await file.close().catch(() => {});
    throw error;
  }
  return { file, end: writer.length };
}
