import { MillraceError } from '@millrace/core/error';
import { type CheckpointPlace, isPack, laterFirst, type NamedFile, parseFileName } from '../journal/file-names.ts';
import { type FileSystem, isMissing } from '../journal/file-system.ts';
import { type Manifest, readManifest } from './manifest.ts';
import { type PackStatus, packStatus } from './store-status.ts';

/**
 * The files of a store as its directory shows them, without opening it: for a look from outside, also while a server has
 * it open. What of the records is alive only the store itself knows.
 */
export interface DirectoryStatus {
  readonly journals: { readonly main: JournalFiles; readonly log: JournalFiles };
  readonly packs: PackStatus;
  readonly checkpoints: {
    readonly base: string | null;
    readonly newest: string | null;
    readonly count: number;
    readonly bytes: number;
  };
  /** How often compaction replaced files; 0: never. */
  readonly generation: number;
  /** Remains of a compaction that was cut short, or of one under way; the next start removes them. */
  readonly leftovers: { readonly count: number; readonly bytes: number };
  readonly totalBytes: number;
}

export interface JournalFiles {
  readonly segments: number;
  /** The last one is being written and has its full size already. */
  readonly segmentBytes: number;
  readonly firstSegment: number | null;
  readonly lastSegment: number | null;
  readonly indexBytes: number;
}

interface Found {
  readonly name: string;
  readonly named: NamedFile;
  readonly bytes: number;
}

/** Fails with data_dir_unusable when there is no store, storage_corrupt when the manifest is damaged. */
export async function directoryStatus(fileSystem: FileSystem, dir: string): Promise<DirectoryStatus> {
  const main = await found(fileSystem, `${dir}/main`);
  const log = await found(fileSystem, `${dir}/log`);
  if (main === null || log === null) {
    throw new MillraceError('data_dir_unusable', { detail: `${dir} holds no store.` });
  }
  const manifest = await readManifest(fileSystem, `${dir}/main`);
  const left = main.filter((file) => isLeftover(file, manifest));
  const kept = main.filter((file) => !left.includes(file));
  const checkpoints = kept.filter(({ named }) => named.kind === 'checkpoint' || named.kind === 'legacy-checkpoint');
  const places = checkpoints.flatMap(({ named }) => (named.kind === 'checkpoint' ? [named] : []));
  return {
    journals: { main: journalFiles(kept), log: journalFiles(log) },
    packs: packStatus(manifest?.packs ?? []),
    checkpoints: {
      base: manifest?.base ?? null,
      newest: newestOf(checkpoints, places),
      count: checkpoints.length,
      bytes: sum(checkpoints),
    },
    generation: manifest?.generation ?? 0,
    leftovers: { count: left.length, bytes: sum(left) },
    totalBytes: sum(main) + sum(log),
  };
}

/** null: there is no such directory. */
async function found(fileSystem: FileSystem, dir: string): Promise<Found[] | null> {
  let names: string[];
  try {
    names = await fileSystem.list(dir);
  } catch (error) {
    if (isMissing(error)) return null;
    throw error;
  }
  const files: Found[] = [];
  for (const name of names) {
    const named = parseFileName(name);
    if (named === null) continue;
    try {
      const file = await fileSystem.open(`${dir}/${name}`, 'read');
      files.push({ name, named, bytes: await file.size().finally(() => file.close()) });
    } catch (error) {
      // A server at work may have removed it since the listing.
      if (!isMissing(error)) throw error;
    }
  }
  return files;
}

function isLeftover({ name, named }: Found, manifest: Manifest | null): boolean {
  if (named.kind === 'temporary') return true;
  if (named.kind === 'legacy-checkpoint') return manifest !== null;
  if (named.kind === 'log' || named.kind === 'index') {
    const { file } = named;
    if (isPack(file)) return manifest === null || !manifest.packs.some((pack) => pack.file === file);
    return manifest !== null && file < manifest.firstSegment;
  }
  if (named.kind !== 'checkpoint' || manifest === null || name === manifest.base) return false;
  const base = parseFileName(manifest.base);
  return base?.kind === 'checkpoint' && laterFirst(base, named) < 0;
}

function journalFiles(files: readonly Found[]): JournalFiles {
  const segments: number[] = [];
  let segmentBytes = 0;
  let indexBytes = 0;
  for (const { named, bytes } of files) {
    if (named.kind === 'index') indexBytes += bytes;
    if (named.kind !== 'log' || isPack(named.file)) continue;
    segments.push(named.file);
    segmentBytes += bytes;
  }
  segments.sort((a, b) => a - b);
  return {
    segments: segments.length,
    segmentBytes,
    firstSegment: segments[0] ?? null,
    lastSegment: segments.at(-1) ?? null,
    indexBytes,
  };
}

function newestOf(checkpoints: readonly Found[], places: CheckpointPlace[]): string | null {
  const newest = [...places].sort(laterFirst)[0];
  if (newest === undefined) return checkpoints[0]?.name ?? null;
  return checkpoints.find(({ named }) => named === newest)!.name;
}

function sum(files: readonly Found[]): number {
  return files.reduce((total, { bytes }) => total + bytes, 0);
}
