/** A stream elsewhere is asked only where sinks may connect to. */
import { once } from 'node:events';
import { createServer } from 'node:http';
import type { AddressInfo } from 'node:net';
import { remoteS2Sink } from '@millrace/sinks/s2-remote';
import { requireOpenEndpoint } from '@millrace/sinks/s2-remote-client';
import { remoteRoutedStreams } from '@millrace/sinks/s2-remote-streams';
import type { NetworkPolicy } from '@millrace/sinks/sink-kind';
import { remoteSinkRecords } from '@millrace/sinks/sink-records';
import { expect, onTestFinished, test } from 'vitest';

const { signal } = new AbortController();
const PUBLIC_ONLY: NetworkPolicy = { allowPrivate: false, allow: [] };
const PRIVATE_TOO: NetworkPolicy = { allowPrivate: true, allow: [] };

test.each(['127.0.0.1', 'localhost', '2130706433'])('nothing is asked of a store at %s', async (host) => {
  let asked = 0;
  const server = createServer((_request, response) => {
    asked++;
    response.writeHead(404).end('{}');
  });
  await once(server.listen(0, '127.0.0.1'), 'listening');
  onTestFinished(() => void server.close());
  const endpoint = `http://${host}:${(server.address() as AddressInfo).port}`;
  const remote = { name: 's', basin: 'some-basin', stream: 'a', accessToken: 'secret', endpoint, network: PUBLIC_ONLY };
  const intents = { load: () => [], save: async () => {} };
  const sink = remoteS2Sink({ ...remote, intents });
  const streams = remoteRoutedStreams(remote);
  const ways = [
    () => sink.resume(null, signal),
    () => streams.open('some-basin/a', signal),
    () => streams.prove('some-basin/a', 0, 0, signal),
    () => remoteSinkRecords(remote).read(() => {}, signal),
  ];
  for (const way of ways) await expect(way()).rejects.toMatchObject({ code: 'sink_address_refused' });
  expect(asked).toBe(0);
  await Promise.all([sink.close(), streams.close()]);
});

test('where clouds give credentials away is opened by its own entry only; private addresses, and s2.dev, are open', async () => {
  const check = (endpoint: string | undefined, network: NetworkPolicy) =>
    requireOpenEndpoint({ endpoint, network }, signal).then(
      () => 'open',
      ({ code }) => code,
    );
  const metadata = 'http://169.254.169.254:80';
  expect(await check(metadata, PRIVATE_TOO)).toBe('sink_address_refused');
  expect(await check('http://[::ffff:169.254.169.254]', PRIVATE_TOO)).toBe('sink_address_refused');
  expect(await check(metadata, { allowPrivate: true, allow: ['169.254.169.254'] })).toBe('open');
  for (const endpoint of ['http://10.0.0.1:8080', 'http://[::1]:8080', 'http://localhost:8080', undefined]) {
    expect(await check(endpoint, PRIVATE_TOO)).toBe('open');
  }
  expect(await check(undefined, PUBLIC_ONLY)).toBe('open');
  // The client is the one to say so.
  expect(await check('http://nowhere.invalid', PUBLIC_ONLY)).toBe('open');
});
