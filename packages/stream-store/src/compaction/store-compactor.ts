import { writeTrim } from '../entries.ts';
import type { FileSystem } from '../journal/file-system.ts';
import type { StoreCore } from '../store-core.ts';
import type { RecoveredStore } from '../store-recovery.ts';
import { Compactor } from './compactor.ts';
import type { FileObserver } from './file-observer.ts';
import { StreamLives } from './stream-lives.ts';

/** The compactor of a store: what it needs, in the store's terms. */
export function storeCompactor(
  core: StoreCore,
  { main, checkpoints, files }: RecoveredStore,
  fileSystem: FileSystem,
  observer: FileObserver | null,
  log: (line: string) => void,
): Compactor {
  return new Compactor({
    fileSystem,
    clock: core.clock,
    main,
    checkpoints,
    files,
    lives: new StreamLives(core.state),
    trim: (streamId, seqNum) =>
      core.write(
        (out) => writeTrim(out, streamId, seqNum),
        () => {
          const stream = core.state.streams.get(streamId);
          if (stream !== undefined) core.state.applyTrim(stream, seqNum);
        },
      ),
    busy: () => core.budget.inflightBytes > 0,
    observer,
    log,
  });
}
