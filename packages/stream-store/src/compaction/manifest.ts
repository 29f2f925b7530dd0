import { crc32 } from 'node:zlib';
import { MillraceError } from '@millrace/core/error';
import { MANIFEST_NAME, PACK_FILE_BASE, parseFileName } from '../journal/file-names.ts';
import { type FileSystem, isMissing, replaceFile } from '../journal/file-system.ts';

/*
 * Which files are the store, once compaction has replaced some: two lines of text, JSON and its crc, replaced as one.
 *
 *   {"format":1,"journalId":"…","marker":…,"generation":…,"base":"checkpoint-…","firstSegment":…,"nextPack":…,"packs":[…]}
 *   crc32:89abcdef
 *
 * No manifest: nothing was ever compacted, all segments from 1 on are the store. Files it does not name are leftovers:
 * packs that are not in `packs`, segments before `firstSegment`, checkpoints before `base`.
 */
export interface Manifest {
  readonly journalId: string;
  readonly marker: number;
  /** Counts replacements. A checkpoint of another generation names files that may be gone. 0: no manifest. */
  readonly generation: number;
  /** The checkpoint that stands for everything in the segments that are gone but records. */
  readonly base: string;
  readonly firstSegment: number;
  /** From old to new: of every stream, the records in an earlier pack come before those in a later one. */
  readonly packs: readonly PackEntry[];
  /** Numbers of packs below were given away. */
  readonly nextPack: number;
}

export interface PackEntry {
  /** File number, from PACK_FILE_BASE on. */
  readonly file: number;
  readonly bytes: number;
  /** How often its records were rewritten: 1 from segments, 2 from packs of level 1. */
  readonly level: number;
  /** Packs of one run follow each other, and each begins with the stream the one before ended with, or a later one. */
  readonly run: number;
}

const FORMAT = 1;
const KEYS = ['base', 'firstSegment', 'format', 'generation', 'journalId', 'marker', 'nextPack', 'packs'];
const PACK_KEYS = ['bytes', 'file', 'level', 'run'];

export function encodeManifest(manifest: Manifest): Buffer {
  const { journalId, marker, generation, base, firstSegment, nextPack } = manifest;
  const packs = manifest.packs.map(({ file, bytes, level, run }) => ({ file, bytes, level, run }));
  const json = JSON.stringify({
    format: FORMAT,
    journalId,
    marker,
    generation,
    base,
    firstSegment,
    nextPack,
    packs,
  });
  return Buffer.from(`${json}\ncrc32:${checksum(json)}\n`, 'utf8');
}

/** null: not a manifest of this version, or damaged. */
export function decodeManifest(bytes: Buffer): Manifest | null {
  const text = bytes.toString('utf8');
  const end = text.indexOf('\n');
  if (end < 0 || text.slice(end) !== `\ncrc32:${checksum(text.slice(0, end))}\n`) return null;
  let value: unknown;
  try {
    value = JSON.parse(text.slice(0, end));
  } catch {
    return null;
  }
  return isManifest(value) ? value : null;
}

/** null: there is none. Damaged: storage_corrupt. */
export async function readManifest(fileSystem: FileSystem, dir: string): Promise<Manifest | null> {
  const path = `${dir}/${MANIFEST_NAME}`;
  let bytes: Buffer;
  try {
    bytes = await fileSystem.readFile(path);
  } catch (error) {
    if (isMissing(error)) return null;
    throw error;
  }
  const manifest = decodeManifest(bytes);
  if (manifest !== null) return manifest;
  throw new MillraceError('storage_corrupt', {
    detail: `${path}: the list of files is damaged, or of a newer version.`,
    hint: 'Restore the data directory from a copy. Nothing was changed.',
  });
}

export function writeManifest(fileSystem: FileSystem, dir: string, manifest: Manifest): Promise<void> {
  return replaceFile(fileSystem, dir, MANIFEST_NAME, encodeManifest(manifest));
}

function checksum(json: string): string {
  return crc32(json).toString(16).padStart(8, '0');
}

function isManifest(value: unknown): value is Manifest {
  if (!hasKeys(value, KEYS) || value.format !== FORMAT) return false;
  const { journalId, marker, generation, base, firstSegment, nextPack, packs } = value;
  if (typeof journalId !== 'string' || !/^[0-9a-f]{32}$/.test(journalId)) return false;
  if (typeof base !== 'string' || parseFileName(base)?.kind !== 'checkpoint') return false;
  if (!isCount(marker) || !isCount(generation) || generation < 1) return false;
  if (!isCount(firstSegment) || firstSegment < 1 || firstSegment >= PACK_FILE_BASE) return false;
  if (!isCount(nextPack) || nextPack < PACK_FILE_BASE || !Array.isArray(packs)) return false;
  const known = new Set<number>();
  for (const pack of packs as unknown[]) {
    if (!hasKeys(pack, PACK_KEYS)) return false;
    const { file, bytes, level, run } = pack;
    if (!isCount(file) || file < PACK_FILE_BASE || file >= nextPack || known.has(file)) return false;
    if (!isCount(bytes) || !isCount(level) || level < 1 || !isCount(run)) return false;
    known.add(file);
  }
  return true;
}

function hasKeys(value: unknown, keys: readonly string[]): value is Record<string, unknown> {
  return typeof value === 'object' && value !== null && Object.keys(value).sort().join() === keys.join();
}

function isCount(value: unknown): value is number {
  return Number.isSafeInteger(value) && (value as number) >= 0;
}
