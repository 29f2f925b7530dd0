import { randomBytes } from 'node:crypto';
import { readdirSync, readFileSync } from 'node:fs';
import path from 'node:path';
import { AppendInput, AppendRecord } from '@s2-dev/streamstore';
import { expect, it } from 'vitest';
import { refuseAppend } from '../../src/encryption/sealed-append.ts';
import { readSession, recordsPath } from '../s2s-client.ts';
import { askHttp1, newBasin, serveForFile } from '../serve.ts';
import { input } from '../store-rig.ts';
import { sdkFor } from './sdk-client.ts';

/** Rows 118 to 122: streams encrypted with the clients' keys. */

const served = await serveForFile();
const KEY = randomBytes(32).toString('base64');
const newEncrypted = () => newBasin(served, { streamCipher: 'aes-256-gcm' });
const append = (basin: string, key: string | null, body: unknown = { records: [{ body: 'secret body' }] }) =>
  askHttp1(served, recordsPath('s'), {
    method: 'POST',
    headers: { 's2-basin': basin, ...(key === null ? {} : { 's2-encryption-key': key }) },
    json: body,
  });
const read = (basin: string, key: string | null, headers: Record<string, string> = {}) =>
  askHttp1(served, recordsPath('s', 'seq_num=0'), {
    headers: { 's2-basin': basin, ...headers, ...(key === null ? {} : { 's2-encryption-key': key }) },
  });

it('row 118: the cipher of the basin is that of its new streams, and theirs for good', async () => {
  const basin = 'sealed-basin';
  const s2 = sdkFor(served);
  await s2.basins.create({ basin, config: { streamCipher: 'aes-256-gcm' } });
  await s2.basin(basin).streams.create({ stream: 'sealed' });
  expect((await askHttp1(served, `/v1/basins/${basin}`)).json.stream_cipher).toBe('aes-256-gcm');
  await s2.basins.reconfigure({ basin, streamCipher: null });
  await s2.basin(basin).streams.create({ stream: 'open' });
  const { streams } = await s2.basin(basin).streams.list();
  expect(streams.map(({ name, cipher }) => [name, cipher])).toEqual([
    ['open', null],
    ['sealed', 'aes-256-gcm'],
  ]);
});

it('row 119: records go in and out with a key of 32 bytes in base64, and without one it is bad_header', async () => {
  const basin = await newEncrypted();
  const stream = sdkFor(served).basin(basin).stream('s', { encryptionKey: KEY });
  try {
    await stream.append(AppendInput.create([AppendRecord.string({ body: 'secret body' })]));
    const session = await stream.appendSession();
    await (await session.submit(AppendInput.create([AppendRecord.string({ body: 'by session' })]))).ack();
    await session.close();
    const back = await stream.read({ start: { from: { seqNum: 0 } } });
    expect(back.records.map(({ body }) => body)).toEqual(['secret body', 'by session']);
  } finally {
    await stream.close();
  }
  for (const key of [
    null,
    '',
    'short',
    randomBytes(31).toString('base64'),
    randomBytes(33).toString('base64'),
    `${KEY}=`,
  ]) {
    for (const answer of [await append(basin, key), await read(basin, key)]) {
      expect([answer.status, answer.json.code]).toEqual([400, 'bad_header']);
    }
  }
  // The tail needs no key, and a stream without a cipher ignores one.
  const tail = await askHttp1(served, `${recordsPath('s')}/tail`, { headers: { 's2-basin': basin } });
  expect(tail.json.tail.seq_num).toBe(2);
  const open = await newBasin(served);
  expect((await append(open, 'nonsense')).status).toBe(200);
});

it('row 120: with another key an append succeeds and a read is decryption_failed', async () => {
  const basin = await newEncrypted();
  const other = randomBytes(32).toString('base64');
  expect((await append(basin, KEY)).status).toBe(200);
  expect((await append(basin, other)).status).toBe(200);
  const refused = await read(basin, KEY);
  expect([refused.status, refused.json.code]).toEqual([400, 'decryption_failed']);
  const session = readSession(served, basin, 's', 'seq_num=1', { 's2-encryption-key': KEY });
  await session.until(() => session.ended);
  expect(session.terminal).toMatchObject({ status: 400, body: { code: 'decryption_failed' } });
  const events = await read(basin, other, { accept: 'text/event-stream' });
  expect(events.text).toMatch(/event: error\ndata: \{"code":"decryption_failed"/);
});

it('row 121: a stream with AES-GCM ends at sequence number 2^32 - 1, beyond which appends are invalid', () => {
  const batch = (count: number) => ({ ...input(Array.from({ length: count }, () => 'x')), sealed: true });
  expect(refuseAppend('aes-256-gcm', batch(1), 2 ** 32 - 1)).toBeNull();
  expect(refuseAppend('aes-256-gcm', batch(1), 2 ** 32)).toMatchObject({ status: 422, code: 'invalid' });
  expect(refuseAppend('aes-256-gcm', batch(2), 2 ** 32 - 1)).toMatchObject({ status: 422, code: 'invalid' });
});

it('row 122: commands are stored as they are, records are not', async () => {
  const basin = await newEncrypted();
  const records = [{ body: 'unmistakably secret' }, { headers: [['', 'fence']], body: 'unmistakable-token' }];
  expect((await append(basin, KEY, { records })).status).toBe(200);
  expect((await append(basin, KEY, { records: [{}], fencing_token: 'x' })).text).toBe(
    '{"fencing_token_mismatch":"unmistakable-token"}',
  );
  const stored = Buffer.concat(
    readdirSync(served.dir, { recursive: true, withFileTypes: true })
      .filter((entry) => entry.isFile() && entry.name !== 'lock')
      .map((entry) => readFileSync(path.join(entry.parentPath, entry.name))),
  );
  expect([stored.includes('unmistakably secret'), stored.includes('unmistakable-token')]).toEqual([false, true]);
  expect((await read(basin, KEY)).json.records.map(({ body }: { body: string }) => body)).toEqual([
    'unmistakably secret',
    'unmistakable-token',
  ]);
});
