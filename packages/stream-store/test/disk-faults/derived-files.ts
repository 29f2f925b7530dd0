import type { MemoryFileSystem } from '../memory-file-system.ts';

/** Every file that the store can do without: indexes of sealed files, and checkpoints, except one that is a base. */
export function derivedFiles(disk: MemoryFileSystem): string[] {
  const bases = disk.paths(/\/manifest$/).map((path) => baseOf(disk.content(path)));
  return disk.paths(/\.idx$|\/checkpoint[^/]*$/).filter((path) => !bases.some((base) => path.endsWith(`/${base}`)));
}

function baseOf(manifest: Buffer): string {
  const json = manifest.toString('utf8').split('\n')[0]!;
  return (JSON.parse(json) as { base: string }).base;
}
