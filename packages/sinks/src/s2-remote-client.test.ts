/** What another S2 endpoint says, and what its client says in its place, as our errors. */
import { once } from 'node:events';
import { createServer } from 'node:net';
import { S2Error } from '@s2-dev/streamstore';
import { expect, test } from 'vitest';
import { classify, findTail, remoteClient } from './s2-remote-client.ts';

const WHERE = 's2://basin/stream at http://there:1';

test.each([
  ['ENOTFOUND', 400],
  ['EAI_AGAIN', 502],
  ['ECONNREFUSED', 502],
  ['REQUEST_TIMEOUT', 408],
  ['ABORTED', 499],
  ['INTERNAL_ERROR', 0],
])('%s, to which the client gives the status %i, was no answer: it is tried again', (code, status) => {
  const error = classify(new S2Error({ message: 'x', code, status, origin: 'sdk' }), WHERE);
  expect(error.code).toBe('sink_unavailable');
  expect(error.message).toContain(`${WHERE} cannot be reached, or broke off (${code}).`);
  expect(error.message).not.toContain('answered');
});

test('an endpoint where nobody listens has refused nothing', async () => {
  const server = createServer().listen(0, '127.0.0.1');
  await once(server, 'listening');
  const { port } = server.address() as { port: number };
  server.close();
  await once(server, 'close');
  const client = remoteClient({ accessToken: 't', endpoint: `http://127.0.0.1:${port}` });
  const error = await findTail(client.basin('basin-name').stream('s'), AbortSignal.timeout(30_000)).catch((e) => e);
  expect(classify(error, WHERE)).toMatchObject({
    code: 'sink_unavailable',
    message: expect.not.stringMatching(/answered|502|NETWORK_ERROR/),
  });
});

test.each([
  [400, 'sink_refused'],
  [403, 'sink_denied'],
  [429, 'sink_unavailable'],
  [500, 'sink_unavailable'],
])('what the endpoint itself says with %i is told with its status', (status, code) => {
  const error = classify(new S2Error({ message: 'x', code: 'said', status, origin: 'server' }), WHERE);
  expect(error.code).toBe(code);
  expect(error.message).toContain(`${WHERE} answered ${status} said`);
});

test('what the client itself refuses to send is refused', () => {
  const error = classify(new S2Error({ message: 'too large', status: 422, origin: 'sdk' }), WHERE);
  expect(error.code).toBe('sink_refused');
});
