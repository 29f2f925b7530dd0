import { startHttpServer } from '../../src/http/server.ts';
import { nodeFileSystem } from '../../src/journal/file-system.ts';
import { openLocalStore } from '../../src/local-store.ts';
import { ignoringFences, showingUndurableTails } from './faulty-store.ts';
import { powerLossFileSystem } from './power-loss-file-system.ts';

/*
 * The server that is killed: `<directory> <variant>`. Says `listening <port>` when it is ready. `kernel` writes to the
 * directory as in production; `power` and the mutants lose at SIGKILL what was not synced.
 */

const [dir, variant] = process.argv.slice(2);

const fileSystem =
  variant === 'kernel'
    ? nodeFileSystem
    : powerLossFileSystem({
        below: nodeFileSystem,
        // Long enough that a kill at random meets it.
        syncMs: variant === 'power' ? 2 : 15,
        lies: variant === 'acks-before-sync',
      });

const store = await openLocalStore({
  dir: dir!,
  fileSystem,
  segmentBytes: 64 * 1024,
  rootToken: 'root',
  compaction: 'manual',
});
// All the time, so that a kill meets it at any step. It may fail with the disk: nothing depends on it.
setInterval(() => void store.compactNow().catch(() => {}), 40);
void store.failed.then((error) => {
  process.stderr.write(`${error.code}\n`);
  process.exit(1);
});
const served =
  variant === 'ignores-fences'
    ? ignoringFences(store)
    : variant === 'shows-undurable-tail'
      ? showingUndurableTails(store)
      : store;
const server = await startHttpServer({ store: served, port: 0, auth: 'off' });
process.stdout.write(`listening ${server.port}\n`);
