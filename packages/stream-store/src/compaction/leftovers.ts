import { isPack, parseFileName } from '../journal/file-names.ts';
import { type FileSystem, ignoreMissing } from '../journal/file-system.ts';
import type { Manifest } from './manifest.ts';

export interface LeftoverOptions {
  readonly fileSystem: FileSystem;
  readonly dir: string;
  readonly manifest: Manifest | null;
  readonly firstSegment: number;
  /** Checkpoint that recovery began with. */
  readonly newest: string | null;
}

/**
 * Removes what a crash left of a compaction: packs that no manifest names, segments it replaced, checkpoints that
 * neither it nor recovery needs, index files of what is gone. Called when the store was recovered without them. Returns
 * the highest number of any pack seen, or -1.
 */
export async function removeLeftovers(options: LeftoverOptions): Promise<number> {
  const { fileSystem, dir, manifest, firstSegment, newest } = options;
  const packs = new Set((manifest?.packs ?? []).map(({ file }) => file));
  let highest = -1;
  let removed = false;
  for (const name of await fileSystem.list(dir)) {
    const named = parseFileName(name);
    if (named === null) continue;
    let dead = false;
    if (named.kind === 'log' || named.kind === 'index') {
      if (isPack(named.file)) highest = Math.max(highest, named.file);
      dead = isPack(named.file) ? !packs.has(named.file) : named.file < firstSegment;
    } else if (named.kind === 'checkpoint' || named.kind === 'legacy-checkpoint') {
      dead = name !== newest && name !== manifest?.base;
    } else if (named.kind === 'temporary') dead = true;
    if (!dead) continue;
    await fileSystem.unlink(`${dir}/${name}`).catch(ignoreMissing);
    removed = true;
  }
  // So that none of them comes back beside a later file that has to do with it.
  if (removed) await fileSystem.syncDir(dir);
  return highest;
}
