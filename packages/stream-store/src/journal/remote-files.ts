/**
 * Sealed files (segments and packs) of one journal that are kept somewhere else than in its directory: an object store.
 * A port, declared by the readers of sealed files; null everywhere when there is no such place, and then it costs
 * nothing. Files are named by number (journal/file-names.ts).
 *
 * Contract. A sealed file never changes, so whatever is read of it here equals what was in the directory. The directory
 * comes first: the port is asked only for a file that is not there. `size` and `files` answer from memory and agree
 * with each other; between two turns of the event loop their answers may grow and shrink. A file that belongs to the
 * store and is neither in the directory nor here is damage (storage_corrupt).
 *
 * Errors: a promise rejects when the place cannot be asked (after its own retries) or says something that cannot be
 * true. The caller passes it on as it is; nothing is taken for missing because of it. Calls are concurrent.
 */
export interface RemoteFiles {
  /** Every sealed file the place holds whole and verified. Asked by recovery, to know what exists. */
  files(): Iterable<number>;
  /** Its size in bytes; null when it is not there. */
  size(file: number): number | null;
  /** Fills all of `target` from `position`. False when the file is not there (any more) or ends before. */
  read(file: number, target: Uint8Array, position: number): Promise<boolean>;
  /** The whole segment or pack; null when it is not there. For recovery and index rebuilding: rare, up to 256 MiB. */
  readWhole(file: number): Promise<Buffer | null>;
  /** The whole index file of a sealed file; null when it is not there (it is then made from the file). */
  readIndex(file: number): Promise<Buffer | null>;
  /** A reader found it in the directory: told to whoever decides which file leaves that. Returns at once. */
  touched?(file: number): void;
}
