import { decodeManifest, type Manifest } from '../compaction/manifest.ts';
import { isPack } from '../journal/file-names.ts';
import { FILE_PARTS_MAX, PART_BYTES } from './limits.ts';

/*
 * What a bucket holds of a store: the body of the owned object `<prefix>manifest`. Together with the write-ahead log
 * from `walFirst` on it is a whole store; everything it does not name is a leftover.
 *
 * A file is kept in parts under `<prefix><journal>/data/<tag>/<part, 5 digits>`, its index and checkpoints likewise.
 * The tag is random per upload, so that no upload ever writes over another.
 */

export type StorageMode = 'tiered' | 'bucket';

export interface BucketBody {
  readonly format: 1;
  /** Of the store in this bucket: random, made once. */
  readonly id: string;
  readonly mode: StorageMode;
  readonly main: JournalBody;
  readonly log: JournalBody;
}

export interface JournalBody {
  /** null: the journal was never in this bucket. */
  readonly journalId: string | null;
  /** The manifest file of the journal's directory as it is; null: nothing was ever compacted. */
  readonly manifest: string | null;
  /** The checkpoint which that manifest names as base. */
  readonly base: StoredBlob | null;
  readonly files: readonly StoredFile[];
  /** bucket: ordinal of the first object of the write-ahead log that is needed. */
  readonly walFirst: number;
}

/** Bytes in the bucket. */
export interface StoredBlob {
  readonly tag: string;
  readonly bytes: number;
  /** crc32 of each part. */
  readonly crcs: readonly number[];
}

export interface StoredFile extends StoredBlob {
  readonly file: number;
  /** null: it is to be made from the file. */
  readonly index: StoredBlob | null;
}

export const EMPTY_JOURNAL: JournalBody = { journalId: null, manifest: null, base: null, files: [], walFirst: 0 };

export function manifestOf(body: JournalBody): Manifest | null {
  return body.manifest === null ? null : decodeManifest(Buffer.from(body.manifest, 'utf8'));
}

/** The first segment that the bucket's files do not hold: they hold everything before. */
export function coveredBy(body: JournalBody): number {
  const segments = body.files.map(({ file }) => file).filter((file) => !isPack(file));
  const manifest = manifestOf(body);
  let next = manifest?.firstSegment ?? Math.min(...segments, Number.MAX_SAFE_INTEGER);
  if (next === Number.MAX_SAFE_INTEGER) return 1;
  const held = new Set(segments);
  while (held.has(next)) next++;
  return next;
}

export function partKey(dataPrefix: string, tag: string, part: number): string {
  return `${dataPrefix}${tag}/${String(part).padStart(5, '0')}`;
}

export function partBytes(blob: StoredBlob, part: number): number {
  return Math.min(PART_BYTES, blob.bytes - part * PART_BYTES);
}

/** Every blob that a journal's body names. */
export function blobsOf({ base, files }: JournalBody): StoredBlob[] {
  const blobs: StoredBlob[] = base === null ? [] : [base];
  for (const file of files) {
    blobs.push(file);
    if (file.index !== null) blobs.push(file.index);
  }
  return blobs;
}

/** null: not of this version. */
export function decodeBody(json: unknown): BucketBody | null {
  if (!isObject(json) || json.format !== 1 || (json.mode !== 'tiered' && json.mode !== 'bucket')) return null;
  if (typeof json.id !== 'string' || !/^[0-9a-f]{32}$/.test(json.id)) return null;
  const main = decodeJournal(json.main);
  const log = decodeJournal(json.log);
  return main === null || log === null ? null : { format: 1, id: json.id, mode: json.mode, main, log };
}

function decodeJournal(json: unknown): JournalBody | null {
  if (!isObject(json) || !Array.isArray(json.files) || !isCount(json.walFirst)) return null;
  const { journalId, manifest, walFirst } = json;
  if (journalId !== null && (typeof journalId !== 'string' || !/^[0-9a-f]{32}$/.test(journalId))) return null;
  if (manifest !== null && typeof manifest !== 'string') return null;
  const base = json.base === null ? null : decodeBlob(json.base);
  if (json.base !== null && base === null) return null;
  const files: StoredFile[] = [];
  for (const entry of json.files as unknown[]) {
    const blob = decodeBlob(entry);
    const { file, index } = entry as Record<string, unknown>;
    const decodedIndex = index === null ? null : decodeBlob(index);
    if (blob === null || !isCount(file) || file > 0xffff_ffff || (index !== null && decodedIndex === null)) return null;
    files.push({ ...blob, file, index: decodedIndex });
  }
  const body = { journalId, manifest, base, files, walFirst };
  const decoded = manifestOf(body);
  if ((manifest === null) !== (decoded === null) || (manifest === null) !== (base === null)) return null;
  return body;
}

function decodeBlob(json: unknown): StoredBlob | null {
  if (!isObject(json)) return null;
  const { tag, bytes, crcs } = json;
  if (typeof tag !== 'string' || !/^[0-9a-f]{16,64}$/.test(tag) || !isCount(bytes) || !Array.isArray(crcs)) return null;
  if (crcs.length !== Math.ceil(bytes / PART_BYTES) || crcs.length > FILE_PARTS_MAX || !crcs.every(isCount))
    return null;
  return { tag, bytes, crcs };
}

function isObject(value: unknown): value is Record<string, unknown> {
  return typeof value === 'object' && value !== null;
}

function isCount(value: unknown): value is number {
  return Number.isSafeInteger(value) && (value as number) >= 0;
}
