import { mkdtempSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import type { MillraceError } from '@millrace/core/error';
import { POSITION_ZERO } from '@millrace/core/position';
import { openLocalStore } from '@millrace/stream-store/local-store';
import { DEFAULT_BASIN_CONFIG } from '@millrace/stream-store/model';
import { expect, onTestFinished, test } from 'vitest';
import { MessageBatch } from './message-batch.ts';
import { localS2Sink } from './s2-local.ts';
import { localRoutedStreams } from './s2-local-streams.ts';

test('a sink refuses a stream that is encrypted with keys of its clients, before it writes anything', async () => {
  const dir = mkdtempSync(join(tmpdir(), 'millrace-sink-'));
  const store = await openLocalStore({ dir });
  onTestFinished(async () => {
    await store.close();
    rmSync(dir, { recursive: true, force: true });
  });
  const config = { ...DEFAULT_BASIN_CONFIG, createStreamOnAppend: true, streamCipher: 'aes-256-gcm' } as const;
  await store.createBasin('sealed-basin', config);
  const sink = localS2Sink({ store, name: 'a-sink', basin: 'sealed-basin', stream: 's' });
  await expect(sink.resume(null, new AbortController().signal)).rejects.toMatchObject({ code: 'sink_refused' });
});

test('a stream that a routing function named is in no text for logs', async () => {
  const dir = mkdtempSync(join(tmpdir(), 'millrace-sink-'));
  const store = await openLocalStore({ dir });
  onTestFinished(async () => {
    await store.close();
    rmSync(dir, { recursive: true, force: true });
  });
  const config = { ...DEFAULT_BASIN_CONFIG, createStreamOnAppend: true, streamCipher: 'aes-256-gcm' } as const;
  await store.createBasin('sealed-basin', config);
  const { signal } = new AbortController();
  const opened = localRoutedStreams({ store, name: 'a-sink' }).open('sealed-basin/orders-Ada', signal);
  const error = await opened.catch((refused: MillraceError) => refused);
  expect(error).toMatchObject({
    detail: expect.stringContaining('s2://sealed-basin/orders-Ada is encrypted'),
    logText: expect.stringContaining('s2://… is encrypted'),
  });
});

test('after a crash before the first cursor was saved, every mark is found, however many records came after it', async () => {
  const dir = mkdtempSync(join(tmpdir(), 'millrace-sink-'));
  const store = await openLocalStore({ dir });
  onTestFinished(async () => {
    await store.close();
    rmSync(dir, { recursive: true, force: true });
  });
  const { signal } = new AbortController();
  const open = () => localS2Sink({ store, name: 'a-sink', basin: 'own-basin', stream: 's' });
  const first = open();
  const begun = await first.resume(null, signal);
  expect(begun).toMatchObject({ position: POSITION_ZERO, backfills: new Map() });
  const batch = new MessageBatch(first.limits);
  for (const [from, to] of [
    [0, 1],
    [1, 1000],
    [1000, 1500],
  ] as const) {
    batch.clear();
    for (let ordinal = from; ordinal < to; ordinal++) {
      batch.body.ascii('{}');
      batch.add(7n, ordinal);
    }
    if (from === 0) batch.mark = { backfill: 'schema/7', key: ['1'] };
    await first.write(batch, signal);
  }
  const again = await open().resume(begun, signal);
  expect(again!.position).toEqual({ lsn: 7n, ordinal: 1499 });
  expect(again!.backfills).toEqual(new Map([['schema/7', ['1']]]));
});
