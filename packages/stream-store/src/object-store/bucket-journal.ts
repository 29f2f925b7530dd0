import { assert } from '@millrace/core/assert';
import { MillraceError } from '@millrace/core/error';
import type { FileObserver } from '../compaction/file-observer.ts';
import { encodeManifest, type Manifest } from '../compaction/manifest.ts';
import { indexPath, isPack, parseFileName, segmentPath } from '../journal/file-names.ts';
import type { FileSystem } from '../journal/file-system.ts';
import type { RemoteFiles } from '../journal/remote-files.ts';
import { BlockCache } from './block-cache.ts';
import type { BucketFiles } from './bucket-files.ts';
import {
  blobsOf,
  coveredBy,
  type JournalBody,
  manifestOf,
  type StoredBlob,
  type StoredFile,
} from './bucket-manifest.ts';
import { EntryCheck } from './entry-check.ts';
import { INDEX_WAIT_MS } from './limits.ts';
import { isUnavailable } from './retrying.ts';
import type { WalReplica } from './wal-replica.ts';

/*
 * The copies of one journal's files in the bucket: reads what is not in the directory, is told what becomes of the files
 * that are, and carries out one step of catching up at a time (`step`), for the loop in uploader.ts.
 *
 * Two things are kept apart. `wanted` is what the store on this machine consists of, as the journal and compaction told.
 * `held` is what the bucket's manifest names. A step uploads one file of the first that is not in the second, or, when
 * all that belongs together is uploaded, replaces the bucket's manifest, so that at every moment the bucket holds a
 * whole store: the packs of one compaction with the base that goes with them, and segments without a gap. Objects are
 * deleted only after the manifest that no longer names them is durable.
 */

/** The journal, as far as this needs it. */
export interface CopiedJournal {
  readonly journalId: string;
  readonly segment: number;
  readonly firstSegment: number;
  evict(file: number): Promise<void>;
}

export interface BucketJournalOptions {
  readonly dir: string;
  readonly fileSystem: FileSystem;
  readonly files: BucketFiles;
  readonly body: JournalBody;
  readonly main: boolean;
  /** Replaces this journal's part of the bucket's manifest. */
  readonly update: (body: JournalBody) => Promise<void>;
  /** bucket: the journal's write-ahead log; null in tiered mode. */
  readonly replica: WalReplica | null;
  readonly now: () => number;
  /** There may be something to do. */
  readonly wake: () => void;
}

/** What a step did: 'idle' when there was nothing to do. */
export type Step = 'idle' | 'uploaded' | 'committed';

interface LocalFile {
  readonly bytes: number;
  /** When it was last read, by a counter; 0: never. */
  readAt: number;
  readonly sealedAtMs: number;
  indexed: boolean;
}

interface UploadedBase {
  readonly name: string;
  readonly blob: StoredBlob;
}

export class BucketJournal implements RemoteFiles, FileObserver {
  readonly #options: BucketJournalOptions;
  readonly #blocks: BlockCache;
  #body: JournalBody;
  /** What the bucket's manifest names. */
  #held: ReadonlyMap<number, StoredFile>;
  /** Uploaded, named or not yet. */
  readonly #uploaded = new Map<number, StoredFile>();
  #base: UploadedBase | null;
  #journal: CopiedJournal | null = null;
  /** Sealed files in the directory. */
  readonly #local = new Map<number, LocalFile>();
  /** Sealed segments of the store, here or in the bucket. */
  readonly #segments = new Set<number>();
  #manifest: Manifest | null = null;
  #active = 0;
  /** Everything before this segment is in the bucket. */
  #covered: number;
  #reads = 0;
  uploadedBytes = 0;
  /** Read from the bucket, by readers of records and indexes. */
  fetchedBytes = 0;

  constructor(options: BucketJournalOptions) {
    this.#options = options;
    this.#body = options.body;
    this.#held = new Map(options.body.files.map((file) => [file.file, file]));
    for (const file of options.body.files) this.#uploaded.set(file.file, file);
    const manifest = manifestOf(options.body);
    this.#base = manifest === null ? null : { name: manifest.base, blob: options.body.base! };
    this.#covered = coveredBy(options.body);
    this.#blocks = new BlockCache((file, part, offset, length) => this.#fetch(file, part, offset, length));
  }

  // What recovery and readers ask for.

  files(): Iterable<number> {
    return this.#held.keys();
  }

  size(file: number): number | null {
    return this.#held.get(file)?.bytes ?? null;
  }

  async read(file: number, target: Uint8Array, position: number): Promise<boolean> {
    const held = this.#held.get(file);
    if (held === undefined) return false;
    return await this.#blocks.read(file, held.bytes, target, position);
  }

  async readWhole(file: number): Promise<Buffer | null> {
    const held = this.#held.get(file);
    if (held === undefined) return null;
    this.fetchedBytes += held.bytes;
    return await this.#options.files.readWhole(held);
  }

  async readIndex(file: number): Promise<Buffer | null> {
    const index = this.#held.get(file)?.index ?? null;
    if (index === null) return null;
    this.fetchedBytes += index.bytes;
    return await this.#options.files.readWhole(index);
  }

  touched(file: number): void {
    const local = this.#local.get(file);
    if (local !== undefined) local.readAt = ++this.#reads;
  }

  // What journal, index and compaction tell.

  sealed(file: number, bytes: number): void {
    if (this.#journal === null) return;
    this.#active = file + 1;
    this.#segments.add(file);
    this.#local.set(file, { bytes, readAt: 0, sealedAtMs: this.#options.now(), indexed: false });
    this.#options.wake();
  }

  indexed(file: number): void {
    const local = this.#local.get(file);
    if (local === undefined) return;
    local.indexed = true;
    this.#options.wake();
  }

  checkpointed(): void {}

  committed(manifest: Manifest): void {
    if (this.#journal === null) return;
    this.#manifest = manifest;
    for (const { file, bytes } of manifest.packs) {
      if (this.#local.has(file) || this.#uploaded.has(file)) continue;
      this.#local.set(file, { bytes, readAt: 0, sealedAtMs: this.#options.now(), indexed: true });
    }
    this.#options.wake();
  }

  dropped(files: readonly number[]): void {
    for (const file of files) {
      this.#segments.delete(file);
      this.#local.delete(file);
      this.#blocks.drop(file);
    }
    this.#options.wake();
  }

  /** After recovery: from here on the calls above are complete. */
  async start(journal: CopiedJournal, manifest: Manifest | null): Promise<void> {
    this.#manifest = manifest;
    this.#active = journal.segment;
    const from = this.#options.main ? (manifest?.firstSegment ?? 1) : journal.firstSegment;
    for (let segment = from; segment < journal.segment; segment++) this.#segments.add(segment);
    for (const file of [...(manifest?.packs ?? []).map((pack) => pack.file), ...this.#segments]) {
      const bytes = await this.#localBytes(file);
      // Where there is no index by now, there will not be one soon.
      if (bytes !== null) this.#local.set(file, { bytes, readAt: 0, sealedAtMs: 0, indexed: true });
    }
    this.#journal = journal;
  }

  /** Sealed files of the store that the bucket's manifest does not name. */
  pending(): { readonly files: number[]; readonly bytes: number } {
    const files = this.#wanted().filter((file) => !this.#held.has(file));
    let bytes = 0;
    for (const file of files) bytes += this.#local.get(file)?.bytes ?? 0;
    return { files, bytes };
  }

  /** The first segment of which something is not in the bucket. */
  get covered(): number {
    return this.#covered;
  }

  get localBytes(): number {
    let bytes = 0;
    for (const local of this.#local.values()) bytes += local.bytes;
    return bytes;
  }

  get heldBytes(): number {
    let bytes = 0;
    for (const held of this.#held.values()) bytes += held.bytes;
    return bytes;
  }

  get body(): JournalBody {
    return this.#body;
  }

  /** The bucket's manifest names a blob of this tag. */
  names(tag: string): boolean {
    return blobsOf(this.#body).some((blob) => blob.tag === tag);
  }

  /** One upload, or one replacement of the bucket's manifest. `hasty`: indexes that are not written are not waited for. */
  async step(hasty: boolean): Promise<Step> {
    assert(this.#journal !== null, 'copying starts after recovery');
    if (await this.#uploadNext(hasty)) return 'uploaded';
    const { body, covered } = this.#view();
    if (sameBody(body, this.#body)) return 'idle';
    await this.#commit(body, covered);
    return 'committed';
  }

  /**
   * Deletes the file that was read the longest time ago from the directory, if the bucket holds it. Returns its size;
   * null: there is none.
   */
  async evictOne(): Promise<number | null> {
    let oldest: number | null = null;
    let oldestReadAt = Number.POSITIVE_INFINITY;
    for (const [file, { readAt }] of this.#local) {
      // Of files never read, the first written leaves first: maps keep the order of insertion.
      if (readAt >= oldestReadAt || !this.#held.has(file)) continue;
      oldest = file;
      oldestReadAt = readAt;
    }
    if (oldest === null) return null;
    const { bytes } = this.#local.get(oldest)!;
    this.#local.delete(oldest);
    await this.#journal!.evict(oldest);
    return bytes;
  }

  #wanted(): number[] {
    const packs = (this.#manifest?.packs ?? []).map(({ file }) => file);
    const first = this.#firstSegment();
    return [...packs, ...[...this.#segments].filter((file) => file >= first).sort((a, b) => a - b)];
  }

  #firstSegment(): number {
    if (this.#options.main) return this.#manifest?.firstSegment ?? 1;
    let first = this.#active;
    for (const segment of this.#segments) first = Math.min(first, segment);
    return first;
  }

  async #uploadNext(hasty: boolean): Promise<boolean> {
    const { dir, fileSystem, files } = this.#options;
    const manifest = this.#manifest;
    if (manifest !== null && this.#base?.name !== manifest.base) {
      const blob = await files.upload(fileSystem, `${dir}/${manifest.base}`, undefined, this.#count);
      if (blob === null) {
        // Compaction has made another in the meantime.
        if (this.#manifest !== manifest) return true;
        throw new MillraceError('storage_corrupt', { detail: `${dir}/${manifest.base} is missing.` });
      }
      if (this.#base !== null && this.#base.blob.tag !== this.#body.base?.tag) await this.#remove(this.#base.blob);
      this.#base = { name: manifest.base, blob };
      return true;
    }
    for (const file of this.#wanted()) {
      if (this.#uploaded.has(file)) continue;
      const local = this.#local.get(file);
      if (local === undefined) continue;
      if (!local.indexed && !hasty && this.#options.now() - local.sealedAtMs < INDEX_WAIT_MS) continue;
      const check = new EntryCheck(segmentPath(dir, file));
      const blob = await files.upload(fileSystem, segmentPath(dir, file), (chunk) => check.push(chunk), this.#count);
      if (blob === null) continue;
      check.finish();
      const index = await files.upload(fileSystem, indexPath(dir, file), undefined, this.#count);
      this.#uploaded.set(file, { ...blob, file, index });
      return true;
    }
    return false;
  }

  readonly #count = (bytes: number): void => {
    this.uploadedBytes += bytes;
  };

  /** What the bucket's manifest can say of this journal with what is uploaded, and the first segment that is not in it. */
  #view(): { readonly body: JournalBody; readonly covered: number } {
    const { journalId } = this.#journal!;
    const manifest = this.#manifest;
    const packs = (manifest?.packs ?? []).map(({ file }) => this.#uploaded.get(file));
    const uploaded = manifest === null || (this.#base?.name === manifest.base && !packs.includes(undefined));
    // The base knows of everything before its place: where that ends in a segment which only this disk holds, what the
    // bucket held would promise records that are lost with the disk.
    const whole = uploaded && (manifest === null || this.#holdsUpTo(manifest));
    const kept = manifestOf(this.#body);
    const files = whole ? (packs as StoredFile[]) : this.#body.files.filter(({ file }) => isPack(file));
    const segments = this.#uploadedFrom(whole ? this.#firstSegment() : (kept?.firstSegment ?? 1));
    const next = segments.next;
    const body = {
      journalId,
      manifest: whole ? textOf(manifest) : this.#body.manifest,
      base: whole ? (manifest === null ? null : this.#base!.blob) : this.#body.base,
      files: [...files, ...segments.files],
      walFirst: this.#options.replica?.firstOrdinal(next) ?? this.#body.walFirst,
    };
    return { body, covered: next };
  }

  #uploadedFrom(first: number): { readonly files: StoredFile[]; readonly next: number } {
    const files: StoredFile[] = [];
    for (let next = first; ; next++) {
      const segment = this.#uploaded.get(next);
      if (segment === undefined) return { files, next };
      files.push(segment);
    }
  }

  #holdsUpTo({ base, firstSegment }: Manifest): boolean {
    if (this.#options.replica !== null) return true;
    const place = parseFileName(base);
    return place?.kind === 'checkpoint' && place.segment < this.#uploadedFrom(firstSegment).next;
  }

  async #commit(view: JournalBody, covered: number): Promise<void> {
    await this.#options.update(view);
    const before = blobsOf(this.#body);
    this.#body = view;
    this.#covered = covered;
    this.#held = new Map(view.files.map((file) => [file.file, file]));
    const named = new Set(blobsOf(view).map(({ tag }) => tag));
    const wanted = new Set(this.#wanted());
    for (const [file, stored] of this.#uploaded) {
      if (this.#held.has(file) || wanted.has(file)) continue;
      this.#uploaded.delete(file);
      this.#blocks.drop(file);
      before.push(stored);
      if (stored.index !== null) before.push(stored.index);
    }
    const gone = new Map(before.filter(({ tag }) => !named.has(tag)).map((blob) => [blob.tag, blob]));
    for (const blob of gone.values()) await this.#remove(blob);
    if (this.#options.replica !== null) await this.#options.replica.collect(covered).catch(ignoreUnavailable);
  }

  /** What cannot be deleted now is a leftover, which the next opening sweeps. */
  async #remove(blob: StoredBlob): Promise<void> {
    await this.#options.files.remove(blob).catch(ignoreUnavailable);
  }

  async #fetch(file: number, part: number, offset: number, length: number): Promise<Buffer | null> {
    const held = this.#held.get(file);
    if (held === undefined) return null;
    this.fetchedBytes += length;
    return await this.#options.files.readPart(held, part, offset, length);
  }

  async #localBytes(file: number): Promise<number | null> {
    try {
      const opened = await this.#options.fileSystem.open(segmentPath(this.#options.dir, file), 'read');
      return await opened.size().finally(() => opened.close());
    } catch {
      return null;
    }
  }
}

function ignoreUnavailable(error: unknown): void {
  if (!isUnavailable(error)) throw error;
}

function textOf(manifest: Manifest | null): string | null {
  return manifest === null ? null : encodeManifest(manifest).toString('utf8');
}

function sameBody(a: JournalBody, b: JournalBody): boolean {
  if (a.journalId !== b.journalId || a.manifest !== b.manifest || a.walFirst !== b.walFirst) return false;
  const [ours, theirs] = [blobsOf(a), blobsOf(b)];
  return ours.length === theirs.length && ours.every(({ tag }, i) => tag === theirs[i]!.tag);
}
