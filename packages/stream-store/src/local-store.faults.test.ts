import { ByteWriter } from '@millrace/core/byte-writer';
import { MillraceError } from '@millrace/core/error';
import { describe, expect, test } from 'vitest';
import { type Fault, MemoryFileSystem, type Operation } from '../test/memory-file-system.ts';
import { HeldClock, input, readAll, seededRandom, tempDir } from '../test/store-rig.ts';
import { type LocalStore, openLocalStore } from './local-store.ts';
import { DEFAULT_BASIN_CONFIG } from './model.ts';
import { writeSequencedRecord } from './record-writer.ts';
import { S2Error } from './s2-error.ts';
import type { Stream } from './store.ts';

// One workload that rolls both journals, writes index files and checkpoints, trims and deletes log segments, deletes a
// stream and closes; and every single disk operation of it failing in every way. Whatever happens: what was
// acknowledged is there afterwards, in order and dense, and what is there beyond is what was sent.

const BASIN = 'fault-basin';
const SEGMENT_BYTES = 2048;

/** What the store said yes to, and what it was asked, per stream. */
class Told {
  readonly sent = new Map<string, string[]>([
    ['a', []],
    ['b', []],
    ['changes', []],
  ]);
  readonly acked = new Map<string, number>();
  logTrimAcked = 0;
  logTrimSent = 0;
  cursorAcked = -1;
  cursorSent = -1;
  deletionAcked = false;
  finished = false;
}

async function open(dir: string, fileSystem: MemoryFileSystem): Promise<LocalStore> {
  return await openLocalStore({
    dir,
    fileSystem,
    clock: new HeldClock(),
    segmentBytes: SEGMENT_BYTES,
    rootToken: 'root',
  });
}

async function workload(store: LocalStore, told: Told): Promise<void> {
  await store.createBasin(BASIN, { ...DEFAULT_BASIN_CONFIG, createStreamOnAppend: true });
  const a = await store.openStream(BASIN, 'a', 'append');
  const b = await store.openStream(BASIN, 'b', 'append');
  await store.createStream(BASIN, 'doomed', {});
  const changes = await store.createLogStream('changes');
  for (let round = 0; round < 7; round++) {
    await Promise.all([
      append(a, told, round),
      append(a, told, round),
      append(b, told, round),
      appendLog(changes, told),
      putCursor(store, told, round),
    ]);
    if (round === 2) {
      await store.deleteStream(BASIN, 'doomed');
      told.deletionAcked = true;
    }
    if (round % 2 === 1) await trimLog(changes, told);
  }
  await store.close();
  told.finished = true;
}

async function append(stream: Stream, told: Told, round: number): Promise<void> {
  const sent = told.sent.get(stream.name)!;
  const bodies = Array.from({ length: 1 + (round % 3) }, (_, i) =>
    `${stream.name} ${sent.length + i} `.padEnd(90, '.'),
  );
  sent.push(...bodies);
  const ack = await stream.append(input(bodies));
  told.acked.set(stream.name, Math.max(told.acked.get(stream.name) ?? 0, ack.end.seqNum));
}

async function appendLog(stream: Stream, told: Told): Promise<void> {
  const sent = told.sent.get('changes')!;
  const out = new ByteWriter(64);
  const body = `change ${sent.length} `.padEnd(700, '.');
  const firstSeqNum = sent.length;
  sent.push(body);
  const timestamp = BigInt(firstSeqNum + 1) << 40n;
  const meteredBytes = writeSequencedRecord(out, firstSeqNum, timestamp, [], Buffer.from(body));
  const ack = await stream.appendSequenced({ records: out.view(), firstSeqNum, timestamp, count: 1, meteredBytes });
  told.acked.set('changes', ack.end.seqNum);
}

async function trimLog(stream: Stream, told: Told): Promise<void> {
  told.logTrimSent = stream.tail.seqNum - 1;
  await stream.trim(told.logTrimSent);
  told.logTrimAcked = told.logTrimSent;
}

async function putCursor(store: LocalStore, told: Told, round: number): Promise<void> {
  told.cursorSent = round;
  await store.state.put('cursor', Buffer.from([round]));
  told.cursorAcked = round;
}

/** Opens what is left and holds it against what was told. */
async function check(dir: string, fileSystem: MemoryFileSystem, told: Told): Promise<void> {
  const store = await open(dir, fileSystem);
  const cursor = store.state.get('cursor')?.[0] ?? -1;
  expect(cursor).toBeGreaterThanOrEqual(told.cursorAcked);
  expect(cursor).toBeLessThanOrEqual(told.cursorSent);
  if (told.deletionAcked) expect(store.listStreams(BASIN, { prefix: 'doomed' }).items[0]?.deletedAt).not.toBeNull();
  for (const name of ['a', 'b', 'changes']) {
    const acked = told.acked.get(name) ?? 0;
    const stream = name === 'changes' ? store.openLogStream(name) : await openIfThere(store, name);
    if (stream === null) {
      expect(acked).toBe(0);
      continue;
    }
    const tail = stream.tail.seqNum;
    expect(tail).toBeGreaterThanOrEqual(acked);
    expect(tail).toBeLessThanOrEqual(told.sent.get(name)!.length);
    const trimPoint = stream.firstSeqNum;
    if (name === 'changes') {
      expect(trimPoint).toBeGreaterThanOrEqual(told.logTrimAcked);
      expect(trimPoint).toBeLessThanOrEqual(told.logTrimSent);
    } else expect(trimPoint).toBe(0);
    const found = await readAll(stream);
    expect(found.map((record) => record.body)).toEqual(told.sent.get(name)!.slice(trimPoint, tail));
    expect(found.map((record) => record.seqNum)).toEqual(found.map((_, i) => trimPoint + i));
  }
  // It works on from here, and the sequence numbers go on where they were.
  await store.ensureBasin(BASIN, { ...DEFAULT_BASIN_CONFIG, createStreamOnAppend: true });
  const a = await store.openStream(BASIN, 'a', 'append');
  const before = a.tail.seqNum;
  expect((await a.append(input(['after']))).start.seqNum).toBe(before);
  await store.close();
}

async function openIfThere(store: LocalStore, name: string): Promise<Stream | null> {
  try {
    return await store.openStream(BASIN, name, 'read');
  } catch (error) {
    if (error instanceof S2Error && /_not_found$/.test(error.code)) return null;
    throw error;
  }
}

/** Returns whether the fault was met at all. */
async function suffer(fault: Fault, random: () => number): Promise<boolean> {
  const dir = tempDir();
  const fileSystem = new MemoryFileSystem();
  fileSystem.inject(fault);
  const told = new Told();
  let store: LocalStore | null = null;
  try {
    store = await open(dir, fileSystem);
    await workload(store, told);
  } catch (error) {
    const cause = error instanceof S2Error ? error.cause : error;
    expect(cause).toBeInstanceOf(MillraceError);
    expect((cause as MillraceError).code).toBe(fault.kind === 'ENOSPC' ? 'storage_full' : 'storage_failed');
    if (store !== null) await failsForGood(store, fault);
  }
  await store?.close();
  const met = fileSystem.faulted;
  const crashed = random() < 0.5 || fault.kind === 'power' ? fileSystem.afterCrash(random) : fileSystem.afterKill();
  await check(dir, crashed, told);
  return met;
}

async function failsForGood(store: LocalStore, fault: Fault): Promise<void> {
  expect((await store.failed).code).toBe(fault.kind === 'ENOSPC' ? 'storage_full' : 'storage_failed');
  await expect(store.state.put('cursor', Buffer.from([99]))).rejects.toMatchObject({ code: 'storage' });
  for (const name of ['a', 'b']) {
    const stream = await openIfThere(store, name);
    if (stream !== null) await expect(stream.append(input(['late']))).rejects.toMatchObject({ code: 'storage' });
  }
}

async function sufferEverywhere(kind: Fault['kind'], operations: readonly Operation[], every: number): Promise<number> {
  let at = 0;
  for (; await suffer({ at, kind, operations }, seededRandom(at + 1)); at += every);
  return at;
}

describe('every step of a life can fail', { timeout: 120_000 }, () => {
  const writing: readonly Operation[] = ['write', 'datasync', 'truncate', 'rename', 'unlink', 'syncDir', 'create'];

  test('the machine dies at any operation', async () => {
    expect(await sufferEverywhere('power', writing, 1)).toBeGreaterThan(150);
  });

  test('any operation fails with EIO', async () => {
    expect(await sufferEverywhere('EIO', writing, 1)).toBeGreaterThan(150);
  });

  test('the disk is full at any write', async () => {
    expect(await sufferEverywhere('ENOSPC', ['write', 'truncate', 'create'], 1)).toBeGreaterThan(50);
  });

  test('a write is cut short and goes on', async () => {
    expect(await sufferEverywhere('short', ['write'], 3)).toBeGreaterThan(30);
  });

  test('the workload does roll, checkpoint, index and delete segments', async () => {
    const fileSystem = new MemoryFileSystem();
    const told = new Told();
    await workload(await open(tempDir(), fileSystem), told);
    expect(told.finished).toBe(true);
    for (const done of [
      /rename .*main\/0000000003\.log/,
      /rename .*main\/checkpoint/,
      /rename .*main\/.*\.idx/,
      /unlink .*log\/0000000001\.log/,
    ]) {
      expect(fileSystem.journal.some((line) => done.test(line))).toBe(true);
    }
  });
});
