/** A directory on a file system of its own that is soon full. */
import { spawnSync } from 'node:child_process';
import { mkdtempSync, rmSync, statfsSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';

export interface SmallDisk {
  readonly dir: string;
  remove(): void;
}

/** The disk, or why this machine has none to give: the reason goes into the name of the skipped test. */
export function mountSmallDisk(bytes: number): SmallDisk | { readonly unavailable: string } {
  if (process.platform !== 'linux') return { unavailable: `no tmpfs on ${process.platform}` };
  if (process.getuid?.() !== 0) return { unavailable: 'mounting needs root' };
  const dir = mkdtempSync(join(tmpdir(), `millrace-test-${process.pid}-disk-`));
  const mounted = spawnSync('mount', ['-t', 'tmpfs', '-o', `size=${bytes},mode=0755`, 'tmpfs', dir], {
    encoding: 'utf8',
  });
  // Some sandboxes answer "mounted" and mount nothing; filling the real disk would be the wrong test.
  if (mounted.status !== 0 || statfsSync(dir).blocks * statfsSync(dir).bsize > bytes + 65_536) {
    if (mounted.status === 0) spawnSync('umount', ['--lazy', dir]);
    rmSync(dir, { recursive: true, force: true });
    return { unavailable: mounted.error?.message ?? (mounted.stderr.trim() || 'mount is not permitted') };
  }
  return {
    dir,
    remove: () => removeSmallDisk(dir),
  };
}

/** Also one that is not mounted any more. */
export function removeSmallDisk(dir: string): void {
  // Lazy: a child that was killed may hold a file for a moment more.
  spawnSync('umount', ['--lazy', dir]);
  rmSync(dir, { recursive: true, force: true });
}
