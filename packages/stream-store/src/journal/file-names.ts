/*
 * What the files of a journal are called. One number space for sealed files (u32): segments count from 1, packs
 * (compaction) from PACK_FILE_BASE. So a number alone says where records lie, in places, index files and headers.
 *
 *   0000000042.log   segment 42          p0000000007.log   pack PACK_FILE_BASE + 7
 *   0000000042.idx   its index           p0000000007.idx   its index
 *   checkpoint-0000000042-0000001234     the state of everything before offset 1234 of segment 42
 *   manifest                             which of them are the store (compaction/manifest.ts)
 *   *.tmp                                being written; never part of the store
 */

/** Numbers of packs begin here; those of segments stay below. */
export const PACK_FILE_BASE = 0x8000_0000;

export const MANIFEST_NAME = 'manifest';
/** The one checkpoint of stores made before there was compaction. */
export const LEGACY_CHECKPOINT_NAME = 'checkpoint';

export function isPack(file: number): boolean {
  return file >= PACK_FILE_BASE;
}

export function segmentPath(dir: string, file: number): string {
  return `${dir}/${segmentName(file)}`;
}

export function indexPath(dir: string, file: number): string {
  return `${dir}/${indexName(file)}`;
}

export function segmentName(file: number): string {
  return `${stem(file)}.log`;
}

export function indexName(file: number): string {
  return `${stem(file)}.idx`;
}

export interface CheckpointPlace {
  readonly segment: number;
  readonly offset: number;
}

export function checkpointName({ segment, offset }: CheckpointPlace): string {
  return `checkpoint-${padded(segment)}-${padded(offset)}`;
}

/** What a name in a journal's directory stands for; null: nothing of ours. */
export type NamedFile =
  | { readonly kind: 'log' | 'index'; readonly file: number }
  | ({ readonly kind: 'checkpoint' } & CheckpointPlace)
  | { readonly kind: 'manifest' | 'legacy-checkpoint' | 'temporary' };

export function parseFileName(name: string): NamedFile | null {
  if (name.endsWith('.tmp')) return { kind: 'temporary' };
  if (name === MANIFEST_NAME) return { kind: 'manifest' };
  if (name === LEGACY_CHECKPOINT_NAME) return { kind: 'legacy-checkpoint' };
  const stored = /^(p?)(\d{10})\.(log|idx)$/.exec(name);
  if (stored !== null) {
    const file = Number(stored[2]) + (stored[1] === 'p' ? PACK_FILE_BASE : 0);
    if (file > 0xffff_ffff || (stored[1] === '' && file >= PACK_FILE_BASE)) return null;
    return { kind: stored[3] === 'log' ? 'log' : 'index', file };
  }
  const checkpoint = /^checkpoint-(\d{10})-(\d{10})$/.exec(name);
  if (checkpoint === null) return null;
  return { kind: 'checkpoint', segment: Number(checkpoint[1]), offset: Number(checkpoint[2]) };
}

/** Of two places the later one first. */
export function laterFirst(a: CheckpointPlace, b: CheckpointPlace): number {
  return b.segment - a.segment || b.offset - a.offset;
}

function stem(file: number): string {
  return isPack(file) ? `p${padded(file - PACK_FILE_BASE)}` : padded(file);
}

function padded(value: number): string {
  return String(value).padStart(10, '0');
}
