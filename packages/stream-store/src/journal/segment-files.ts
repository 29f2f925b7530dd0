import { type File, type FileSystem, isMissing } from './file-system.ts';

/** Files of sealed segments kept open for readers. */
export const OPEN_SEGMENTS_MAX = 64;

interface OpenFile {
  readonly file: Promise<File>;
  readers: number;
  dropped: boolean;
}

/** Hands out segment files for reading, keeps the recently used ones open, closes a file only when nobody reads it. */
export class SegmentFiles {
  readonly #fileSystem: FileSystem;
  readonly #pathOf: (segment: number) => string;
  readonly #open = new Map<number, OpenFile>();

  constructor(fileSystem: FileSystem, pathOf: (segment: number) => string) {
    this.#fileSystem = fileSystem;
    this.#pathOf = pathOf;
  }

  /** Fills `target` from `position`; false when the segment is gone or ends before. */
  async read(segment: number, target: Uint8Array, position: number): Promise<boolean> {
    const open = this.#take(segment);
    try {
      const file = await open.file;
      return (await file.read(target, position)) === target.length;
    } catch (error) {
      this.drop(segment);
      if (isMissing(error)) return false;
      throw error;
    } finally {
      open.readers--;
      this.#closeIfUnused(open);
    }
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
      open = { file: this.#fileSystem.open(this.#pathOf(segment), 'read'), readers: 0, dropped: false };
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
