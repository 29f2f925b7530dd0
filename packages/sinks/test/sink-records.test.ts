import { mkdtemp, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { ByteWriter } from '@millrace/core/byte-writer';
import { readJsonAppendInput } from '@millrace/stream-store/http/append-input';
import { openLocalStore } from '@millrace/stream-store/local-store';
import { DEFAULT_BASIN_CONFIG } from '@millrace/stream-store/model';
import { expect, onTestFinished, test } from 'vitest';
import { POSITION_HEADER } from '../src/delivery-header.ts';
import { localSinkRecords } from '../src/sink-records.ts';

const BASIN = 'test-basin';

test('a stream that is trimmed while it is read back is known to lack records', async () => {
  const dir = await mkdtemp(join(tmpdir(), 'millrace-sink-records-'));
  const store = await openLocalStore({ dir });
  onTestFinished(async () => {
    await store.close();
    await rm(dir, { recursive: true });
  });
  await store.createBasin(BASIN, { ...DEFAULT_BASIN_CONFIG, createStreamOnAppend: true });
  const stream = await store.openStream(BASIN, 's', 'append');
  const record = { headers: [[POSITION_HEADER, 'sink@0/10#0']], body: '{}' };
  for (const count of [1000, 500]) {
    const writer = new ByteWriter();
    await stream.append(readJsonAppendInput({ records: Array(count).fill(record) }, 'raw', writer));
  }
  let trimmed = Promise.resolve();
  const trimming = {
    ...{ store, name: 'sink', basin: BASIN, stream: 's' },
    store: {
      openStream: async () => ({
        ...{ id: stream.id, firstSeqNum: stream.firstSeqNum, tail: stream.tail },
        async read(...args: Parameters<typeof stream.read>) {
          await trimmed;
          return await stream.read(...args);
        },
      }),
    } as unknown as typeof store,
  };
  const records = localSinkRecords(trimming);
  let taken = 0;
  await records.read(() => {
    if (taken++ === 0) trimmed = stream.trim(1200);
  }, new AbortController().signal);
  expect([taken, records.trimmed]).toEqual([1300, true]);
});
