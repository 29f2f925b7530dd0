import type { Lsn } from '@millrace/core/lsn';
import { expect, test } from 'vitest';
import type { OutMessage } from '../push-sink.ts';
import { type BatchEntry, deliverBatch } from './batch-queue.ts';

const message = (n: number): OutMessage => ({
  action: 'insert',
  schema: 'public',
  table: 'orders',
  keys: [String(n)],
  databaseName: 'shop',
  idempotencyKey: `key-${n}`,
  group: `row-${n}`,
  lsn: 1n as Lsn,
  ordinal: n,
  body: Buffer.from(n === 1 ? '' : `body ${n}`),
  json: false,
  route: {},
  tries: 0,
});
const messages = [0, 1, 2, 3, 4].map(message);

test('each message has the outcome of its own entry, whatever the order of the answer; one that it leaves out has failed', async () => {
  const sent: string[] = [];
  const outcome = await deliverBatch(messages, 'queue orders', true, async (entries: readonly BatchEntry[]) => {
    sent.push(...entries.map(({ body }) => body));
    return {
      Successful: [{ Id: '4' }, { Id: '0' }],
      Failed: [{ Id: '3', Code: 'InvalidMessageContents', SenderFault: true }],
    };
  });
  expect(sent).toEqual(['body 0', 'body 2', 'body 3', 'body 4']);
  expect(outcome?.map((one) => one?.error.code ?? null)).toEqual([
    null,
    'sink_refused',
    'sink_unavailable',
    'sink_refused',
    null,
  ]);
});

test('a failure that is the fault of the service comes again, whatever its code', async () => {
  const outcome = await deliverBatch(messages.slice(0, 1), 'queue orders', false, async () => ({
    Failed: [{ Id: '0', Code: 'SomethingNew', SenderFault: false }],
  }));
  expect(outcome?.map((one) => one?.error.code)).toEqual(['sink_unavailable']);
});

test('when all arrived there is nothing to say; what has no text that is taken is not even sent', async () => {
  const all = await deliverBatch(messages.slice(2), 'queue orders', false, async (entries) => ({
    Successful: entries.map(({ Id }) => ({ Id })),
  }));
  expect(all).toBeNull();
  const none = await deliverBatch(messages.slice(1, 2), 'queue orders', false, () => Promise.reject(new Error('sent')));
  expect(none?.map((one) => one?.error.code)).toEqual(['sink_refused']);
});
