/** Which addresses the AWS kinds connect to: those that sinks may, however they are written and whoever wrote them. */
import { once } from 'node:events';
import { createServer } from 'node:http';
import type { AddressInfo } from 'node:net';
import { kinesisKind } from '@millrace/sinks/kinesis';
import { snsKind } from '@millrace/sinks/sns';
import { sqsKind } from '@millrace/sinks/sqs';
import { beforeEach, expect, onTestFinished, test, vi } from 'vitest';
import { ACCOUNT, KEY, REGION } from './aws-target.ts';
import { deliver, messageTo, openSink, refusalOf } from './broker-message.ts';

const PUBLIC_ONLY = { timeoutMs: 2_000, network: { allowPrivate: false, allow: [] } };

// The SDK says that a queue is at an address of its own.
beforeEach(() => {
  const warned = vi.spyOn(console, 'warn').mockImplementation(() => {});
  return () => warned.mockRestore();
});

/** Counts what is asked of it, and refuses it. */
async function startListener() {
  const listener = { port: 0, asked: 0 };
  const server = createServer((request, response) => {
    listener.asked++;
    request.resume();
    response.writeHead(400).end('{}');
  });
  await once(server.listen(0, '127.0.0.1'), 'listening');
  listener.port = (server.address() as AddressInfo).port;
  onTestFinished(() => void server.close());
  return listener;
}

const LOCAL = ['127.0.0.1', '2130706433', '0x7f.1', 'localhost', '[::1]', '[::ffff:127.0.0.1]', '[::ffff:7f00:1]'];

test.each(LOCAL)('a queue at %s is reached by no way, configured or routed', async (host) => {
  const listener = await startListener();
  const queue_url = `http://${host}:${listener.port}/${ACCOUNT}/orders`;
  const destination = { type: 'sqs', region: REGION, ...KEY };
  const configured = { ...destination, queue_url };
  const sink = await openSink(sqsKind, configured, PUBLIC_ONLY);
  const routing = await openSink(sqsKind, destination, PUBLIC_ONLY);
  const refused = { code: 'sink_address_refused', hint: expect.stringContaining('--sinks-allow') };
  expect(await deliver(sink, messageTo(sqsKind, configured))).toMatchObject([refused]);
  expect(await deliver(routing, messageTo(sqsKind, destination, { routed: { queue_url } }))).toMatchObject([refused]);
  expect(await refusalOf(sink)).toMatchObject(refused);
  expect(listener.asked).toBe(0);
});

test('a queue where clouds give credentials away is refused even with private addresses allowed', async () => {
  const queue_url = `http://169.254.169.254/${ACCOUNT}/orders`;
  const destination = { type: 'sqs', region: REGION, ...KEY, queue_url };
  const sink = await openSink(sqsKind, destination, { timeoutMs: PUBLIC_ONLY.timeoutMs });
  expect(await deliver(sink, messageTo(sqsKind, destination))).toMatchObject([{ code: 'sink_address_refused' }]);
});

test('an address that is allowed is asked', async () => {
  const listener = await startListener();
  const queue_url = `http://127.0.0.1:${listener.port}/${ACCOUNT}/orders`;
  const destination = { type: 'sqs', region: REGION, ...KEY, queue_url };
  const sink = await openSink(sqsKind, destination, { network: { allowPrivate: false, allow: ['127.0.0.1'] } });
  expect(await deliver(sink, messageTo(sqsKind, destination))).toMatchObject([{ code: 'sink_refused' }]);
  expect(listener.asked).toBe(1);
});

test.each([sqsKind, snsKind, kinesisKind])('an emulator at an address is refused at once: $type', async (kind) => {
  const destination = { type: kind.type, region: REGION, ...KEY, use_emulator: true };
  for (const emulator_base_url of ['http://127.0.0.1:4566', 'http://[::1]:4566', 'http://2130706433:4566']) {
    const opening = openSink(kind, { ...destination, emulator_base_url }, PUBLIC_ONLY);
    await expect(opening).rejects.toMatchObject({ code: 'sink_address_refused' });
  }
});
