import { openLocalStore } from '../src/local-store.ts';
import { DEFAULT_BASIN_CONFIG } from '../src/model.ts';
import type { Stream } from '../src/store.ts';
import { bodyAt, CRASH_BASIN, CRASH_SEGMENT_BYTES, CRASH_STREAMS } from './crash-content.ts';
import { input } from './store-rig.ts';

/*
 * The victim of the crash test: appends known content to several streams as fast as it can, and says on stdout, one
 * line each, what was acknowledged: `<stream> <next seq num>`, `trim <seq num>`, `state <number>`. Killed at any moment.
 */

const store = await openLocalStore({ dir: process.argv[2]!, segmentBytes: CRASH_SEGMENT_BYTES, rootToken: 'root' });
await store.ensureBasin(CRASH_BASIN, { ...DEFAULT_BASIN_CONFIG, createStreamOnAppend: true });
const log = store.openLogStream('log') ?? (await store.createLogStream('log'));

async function write(stream: Stream, window: number): Promise<void> {
  const acks: Promise<void>[] = [];
  for (let round = 0; ; round++) {
    if (acks.length === window) await acks.shift();
    const first = stream.assignedSeqNum;
    const size = 1 + ((first * 7 + round) % 20);
    const records = Array.from({ length: size }, (_, i) => ({
      body: bodyAt(stream.name, first + i),
      timestamp: BigInt(first + i + 1),
    }));
    acks.push(stream.append(input(records)).then((ack) => say(`${stream.name} ${ack.end.seqNum}`)));
  }
}

async function trim(): Promise<void> {
  for (;;) {
    const to = Math.max(0, log.tail.seqNum - 50);
    await log.trim(to);
    say(`trim ${to}`);
  }
}

async function count(): Promise<void> {
  for (let i = store.state.get('count')?.length ?? 0; ; i = (i + 1) % 1000) {
    await store.state.put('count', Buffer.alloc(i));
    say(`state ${i}`);
  }
}

function say(line: string): void {
  process.stdout.write(`${line}\n`);
}

say('ready 0');
const streams = await Promise.all(CRASH_STREAMS.map((name) => store.openStream(CRASH_BASIN, name, 'append')));
await Promise.all([...streams.map((stream, i) => write(stream, 1 + i * 4)), write(log, 4), trim(), count()]);
