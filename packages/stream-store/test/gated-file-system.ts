import type { FileSystem } from '../src/journal/file-system.ts';
import { nodeFileSystem } from '../src/journal/file-system.ts';

/**
 * The real disk with a gate before every sync of a journal's segment: what is appended while the gate is shut is not
 * durable, however long a test looks at it.
 */
export class GatedFileSystem implements FileSystem {
  #passes = Number.POSITIVE_INFINITY;
  #waiting: (() => void)[] = [];
  #notify: (() => void)[] = [];

  /** Lets `passes` more syncs through, then none until released. */
  shut(passes = 0): void {
    this.#passes = passes;
  }

  release(): void {
    this.#passes = Number.POSITIVE_INFINITY;
    for (const go of this.#waiting.splice(0)) go();
  }

  /** Resolves once a sync stands before the gate. */
  async held(): Promise<void> {
    while (this.#waiting.length === 0) await new Promise<void>((resolve) => this.#notify.push(resolve));
  }

  async open(...args: Parameters<FileSystem['open']>): ReturnType<FileSystem['open']> {
    const file = await nodeFileSystem.open(...args);
    // A new segment is made under another name. Files that are derived are written whenever it suits them.
    if (!/\/(\d{10}\.log|segment\.tmp)$/.test(args[0])) return file;
    const datasync = file.datasync.bind(file);
    file.datasync = async () => {
      if (this.#passes > 0) this.#passes--;
      else {
        await new Promise<void>((resolve) => {
          this.#waiting.push(resolve);
          for (const wake of this.#notify.splice(0)) wake();
        });
      }
      await datasync();
    };
    return file;
  }

  makeDir = (path: string) => nodeFileSystem.makeDir(path);
  list = (dir: string) => nodeFileSystem.list(dir);
  readFile = (path: string) => nodeFileSystem.readFile(path);
  readFileSync = (path: string) => nodeFileSystem.readFileSync(path);
  rename = (from: string, to: string) => nodeFileSystem.rename(from, to);
  unlink = (path: string) => nodeFileSystem.unlink(path);
  syncDir = (dir: string) => nodeFileSystem.syncDir(dir);
}
