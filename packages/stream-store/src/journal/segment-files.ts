import { segmentPath } from './file-names.ts';
import { type File, type FileSystem, isMissing } from './file-system.ts';
import type { RemoteFiles } from './remote-files.ts';

/** Files of sealed segments kept open for readers. */
export const OPEN_SEGMENTS_MAX = 64;

interface OpenFile {
  readonly file: Promise<File>;
  readers: number;
  dropped: boolean;
}

/**
 * Reads sealed files and the segment being written: keeps the recently used ones open, closes a file only when nobody
 * reads it. What is not in the directory is read from where else it is, if anywhere.
 */
export class SegmentFiles {
  readonly #fileSystem: FileSystem;
  readonly #dir: string;
  readonly #remote: RemoteFiles | null;
  readonly #open = new Map<number, OpenFile>();

  constructor(fileSystem: FileSystem, dir: string, remote: RemoteFiles | null) {
    this.#fileSystem = fileSystem;
    this.#dir = dir;
    this.#remote = remote;
  }

  /** Fills `target` from `position`; false when the segment is gone or ends before. */
  async read(segment: number, target: Uint8Array, position: number): Promise<boolean> {
    const open = this.#take(segment);
    try {
      const file = await open.file;
      this.#remote?.touched?.(segment);
      return (await file.read(target, position)) === target.length;
    } catch (error) {
      this.drop(segment);
      if (!isMissing(error)) throw error;
    } finally {
      open.readers--;
      this.#closeIfUnused(open);
    }
    return this.#remote !== null && (await this.#remote.read(segment, target, position));
  }

  drop(segment: number): void {
    const open = this.#open.get(segment);
    if (open === undefined) return;
    this.#open.delete(segment);
    open.dropped = true;
    this.#closeIfUnused(open);
  }

  close(): void {
    for (const segment of [...this.#open.keys()]) this.drop(segment);
  }

  #take(segment: number): OpenFile {
    let open = this.#open.get(segment);
    if (open === undefined) {
      open = { file: this.#fileSystem.open(segmentPath(this.#dir, segment), 'read'), readers: 0, dropped: false };
    } else {
      this.#open.delete(segment);
    }
    this.#open.set(segment, open);
    open.readers++;
    if (this.#open.size > OPEN_SEGMENTS_MAX) this.drop(this.#open.keys().next().value!);
    return open;
  }

  #closeIfUnused(open: OpenFile): void {
    if (!open.dropped || open.readers > 0) return;
    // A file that did not open has nothing to close, and a failed close of a file only read loses nothing.
    open.file.then((file) => file.close()).catch(() => {});
  }
}
