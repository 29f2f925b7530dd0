import { ByteWriter } from '@millrace/core/byte-writer';
import { type LocalStore, type LocalStoreOptions, openLocalStore } from '../src/local-store.ts';
import { DEFAULT_BASIN_CONFIG } from '../src/model.ts';
import type { ObjectStorageOptions } from '../src/object-store/object-storage.ts';
import { writeSequencedRecord } from '../src/record-writer.ts';
import type { Stream } from '../src/store.ts';
import { input } from './store-rig.ts';

/** What the tests of stores over an object storage share. */

export const STORAGE_BASIN = 'storage-basin';

export function openStored(
  dir: string,
  objectStorage: ObjectStorageOptions,
  options: Partial<LocalStoreOptions> = {},
): Promise<LocalStore> {
  return openLocalStore({ dir, segmentBytes: 16 * 1024, rootToken: 'root', ...options, objectStorage });
}

/** The n-th record of a stream is always the same. */
export function storedBody(stream: string, seqNum: number): string {
  return `${stream} ${seqNum} `.padEnd(200 + (seqNum % 7) * 30, String(seqNum % 10));
}

/** Appends until the stream has `count` records more, in batches. */
export async function appendMore(stream: Stream, count: number, batch = 10): Promise<void> {
  const end = stream.tail.seqNum + count;
  while (stream.tail.seqNum < end) {
    const from = stream.tail.seqNum;
    const size = Math.min(batch, end - from);
    await stream.append(input(Array.from({ length: size }, (_, i) => storedBody(stream.name, from + i))));
  }
}

export async function appendLogged(stream: Stream, count: number): Promise<void> {
  for (let i = 0; i < count; i++) {
    const out = new ByteWriter(64);
    const firstSeqNum = stream.tail.seqNum;
    const timestamp = BigInt(firstSeqNum + 1) << 20n;
    const meteredBytes = writeSequencedRecord(
      out,
      firstSeqNum,
      timestamp,
      [],
      Buffer.from(storedBody(stream.name, firstSeqNum)),
    );
    await stream.appendSequenced({ records: out.view(), firstSeqNum, timestamp, count: 1, meteredBytes });
  }
}

/** A basin that makes streams when they are written to. */
export async function storedStream(store: LocalStore, name: string): Promise<Stream> {
  await store.ensureBasin(STORAGE_BASIN, { ...DEFAULT_BASIN_CONFIG, createStreamOnAppend: true });
  return await store.openStream(STORAGE_BASIN, name, 'append');
}
