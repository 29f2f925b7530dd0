import type { CheckpointPlace } from '../journal/file-names.ts';
import type { Manifest } from './manifest.ts';

/**
 * Told what becomes of the files of one journal, for somebody who keeps copies of them elsewhere (object storage). A
 * port; null when nobody wants to know. Calls are made between appends, never for each, and must return at once and
 * not throw: they note, and act later. Everything named is in the journal's directory, durable, when the call is made.
 *
 * Order: `sealed` before `indexed` of the same file. A pack is told of only by `committed`, because before that it is
 * no part of the store. `committed` comes before `dropped` of the files it no longer names. A failure in between can
 * leave calls out: after a start, the manifest and the directory are the truth, not what was told before.
 */
export interface FileObserver {
  /** A segment will not change any more; its successor is durable. */
  sealed(file: number, bytes: number): void;
  /** The index file of a sealed segment was written. It may never be (a full disk): it can always be made anew. */
  indexed(file: number): void;
  /** A checkpoint was written. Only the one the manifest names as base has to be kept; others only save time. */
  checkpointed(name: string, place: CheckpointPlace, bytes: number): void;
  /** A new manifest is durable, with all that it names: packs, their index files, the base checkpoint. */
  committed(manifest: Manifest): void;
  /**
   * These files are no part of the store any more; the directory is rid of them next, as far as that works. Copies may
   * go once nothing needs them, e.g. once a manifest that no longer names them is durable where the copies are.
   */
  dropped(files: readonly number[]): void;
}
