import { openLocalStore } from '../src/local-store.ts';
import { DEFAULT_BASIN_CONFIG } from '../src/model.ts';
import type { ObjectStorageOptions } from '../src/object-store/object-storage.ts';
import { appendLogged, STORAGE_BASIN, storedBody } from './storage-rig.ts';
import { input } from './store-rig.ts';

/*
 * A process of its own over an object storage: appends known records to three streams, one of them in the log journal,
 * as fast as it can, and says on stdout what was acknowledged: `<stream> <next seq num>`. `failed <code>` when the store
 * ended under it. Arguments: directory, options of the object storage as
 * JSON, bytes of a segment. Killed, stopped and resumed by tests.
 */

const [dir = '', options = '', segmentBytes = ''] = process.argv.slice(2);
const objectStorage = JSON.parse(options) as ObjectStorageOptions;
const store = await openLocalStore({ dir, segmentBytes: Number(segmentBytes), rootToken: 'root', objectStorage });
void store.failed.then((error) => {
  say(`failed ${error.code}`);
  process.exitCode = 3;
  void store.close();
});
await store.ensureBasin(STORAGE_BASIN, { ...DEFAULT_BASIN_CONFIG, createStreamOnAppend: true });
const log = store.openLogStream('log') ?? (await store.createLogStream('log'));

function say(line: string): void {
  process.stdout.write(`${line}\n`);
}

async function write(name: string): Promise<void> {
  const stream = await store.openStream(STORAGE_BASIN, name, 'append');
  for (;;) {
    const first = stream.tail.seqNum;
    const count = 1 + (first % 17);
    const ack = await stream.append(input(Array.from({ length: count }, (_, i) => storedBody(name, first + i))));
    say(`${name} ${ack.end.seqNum}`);
  }
}

async function writeLog(): Promise<void> {
  for (;;) {
    await appendLogged(log, 1);
    say(`log ${log.tail.seqNum}`);
  }
}

say('ready 0');
// A refusal is told by `failed`.
await Promise.all([write('one'), write('two'), writeLog()]).catch(() => {});
