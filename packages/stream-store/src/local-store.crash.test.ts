import { spawn } from 'node:child_process';
import { createInterface } from 'node:readline';
import { fileURLToPath } from 'node:url';
import { expect, test } from 'vitest';
import { bodyAt, CRASH_BASIN, CRASH_SEGMENT_BYTES, CRASH_STREAMS } from '../test/crash-content.ts';
import { readAll, seededRandom, tempDir } from '../test/store-rig.ts';
import { openLocalStore } from './local-store.ts';
import type { Stream } from './store.ts';

// A process that appends at full speed is killed again and again. MILLRACE_CRASH_KILLS and MILLRACE_CRASH_SEED make a
// longer run of it, and repeat one.
const kills = Number(process.env.MILLRACE_CRASH_KILLS ?? 5);
const seed = Number(process.env.MILLRACE_CRASH_SEED ?? Date.now() % 1_000_000);
const WRITER = fileURLToPath(new URL('../test/crash-writer.ts', import.meta.url));

test(`everything acknowledged survives SIGKILL, byte for byte (seed ${seed})`, {
  timeout: 20_000 + kills * 5_000,
}, async () => {
  const random = seededRandom(seed);
  const dir = tempDir();
  const acked = new Map<string, number>();
  for (let kill = 0; kill < kills; kill++) {
    const before = acked.get('one') ?? 0;
    await runAndKill(dir, random() * 400, acked);
    await judge(dir, acked);
    expect(acked.get('one')).toBeGreaterThan(before);
  }
});

/** Kills the writer `delayMs` after its first acknowledgements; fills in what it said before it died. */
async function runAndKill(dir: string, delayMs: number, acked: Map<string, number>): Promise<void> {
  const child = spawn(process.execPath, [WRITER, dir], { stdio: ['ignore', 'pipe', 'inherit'] });
  const exited = new Promise<string | null>((resolve) => child.once('exit', (_code, signal) => resolve(signal)));
  for await (const line of createInterface({ input: child.stdout })) {
    const [what, number] = line.split(' ');
    acked.set(what!, Number(number));
    if (what === 'one' && !acked.has('armed')) {
      acked.set('armed', 1);
      setTimeout(() => child.kill('SIGKILL'), delayMs);
    }
  }
  acked.delete('armed');
  expect(await exited).toBe('SIGKILL');
}

async function judge(dir: string, acked: ReadonlyMap<string, number>): Promise<void> {
  const store = await openLocalStore({ dir, segmentBytes: CRASH_SEGMENT_BYTES, rootToken: 'root' });
  for (const name of CRASH_STREAMS) {
    await judgeStream(await store.openStream(CRASH_BASIN, name, 'append'), acked.get(name) ?? 0, 0);
  }
  const log = store.openLogStream('log')!;
  expect(log.firstSeqNum).toBeGreaterThanOrEqual(acked.get('trim') ?? 0);
  await judgeStream(log, acked.get('log') ?? 0, log.firstSeqNum);
  const count = store.state.get('count')?.length ?? -1;
  const last = acked.get('state') ?? -1;
  // One more may have been durable without the word getting out.
  if (last >= 0) expect([last, (last + 1) % 1000]).toContain(count);
  await store.close();
}

async function judgeStream(stream: Stream, acked: number, first: number): Promise<void> {
  const tail = stream.tail.seqNum;
  expect(tail).toBeGreaterThanOrEqual(acked);
  let next = first;
  let wrong = 0;
  for (const { seqNum, body } of await readAll(stream)) {
    if (seqNum !== next || body !== bodyAt(stream.name, seqNum)) wrong++;
    next++;
  }
  expect(wrong).toBe(0);
  expect(next).toBe(tail);
}
