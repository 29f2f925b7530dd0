import { mkdtempSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { openLocalStore } from '@millrace/stream-store/local-store';
import { DEFAULT_BASIN_CONFIG } from '@millrace/stream-store/model';
import { expect, onTestFinished, test } from 'vitest';
import { localS2Sink } from './s2-local.ts';

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
