import { once } from 'node:events';
import { createServer, type ServerResponse } from 'node:http';
import { type AddressInfo, connect } from 'node:net';
import { setImmediate as turn } from 'node:timers/promises';
import type { TailBatch } from '@millrace/engine/change-tail';
import fc from 'fast-check';
import { expect, onTestFinished, test } from 'vitest';
import { eventId, parseEventId, wasSeen } from './event-id.ts';
import { sendEvents } from './event-stream.ts';
import { ManagementError } from './management-error.ts';

const position = (ordinal: number) => ({ lsn: 0x16b3748n, ordinal });
const message = (ordinal: number, body: string, sub = 0, last = true) => ({
  ...{ position: position(ordinal), sub, last },
  ...{ body: Buffer.from(body), json: true, error: null },
});

type Options = Parameters<typeof sendEvents>[0];

/** Serves one tail to each client that comes. */
async function serve(
  makeTail: (gone: AbortController) => AsyncGenerator<TailBatch, void>,
  more: Partial<Options> = {},
) {
  const responses: ServerResponse[] = [];
  const ended: Promise<void>[] = [];
  const server = createServer((_, to) => {
    const gone = new AbortController();
    to.once('close', () => gone.abort());
    responses.push(to);
    const options = { tail: makeTail(gone), from: null, to, gone, mayRead: () => {}, log: () => {}, ...more };
    ended.push(sendEvents(options));
  });
  server.listen(0, '127.0.0.1');
  await once(server, 'listening');
  onTestFinished(() => {
    server.closeAllConnections();
    server.close();
  });
  const { port } = server.address() as AddressInfo;
  return { url: `http://127.0.0.1:${port}`, port, responses, ended };
}

async function* never(gone: AbortController): AsyncGenerator<TailBatch, void> {
  await new Promise((resolve) => gone.signal.addEventListener('abort', resolve));
}

test('a client that takes nothing is read for no further, then cut; another one gets everything', async () => {
  const body = JSON.stringify('x'.repeat(200_000));
  const made: number[] = [];
  const { port, url, responses, ended } = await serve(
    async function* (gone) {
      const client = made.push(0) - 1;
      for (let n = 0; n < 200 && !gone.signal.aborted; n++) {
        made[client] = n + 1;
        yield { messages: [message(n, body)], through: position(n) };
      }
    },
    { stalledMs: 700, heartbeatMs: 5 },
  );
  const deaf = connect(port, '127.0.0.1');
  deaf.on('error', () => {});
  deaf.write('GET / HTTP/1.1\r\nhost: x\r\n\r\n');
  deaf.pause();
  await expect.poll(() => responses.length).toBe(1);
  const text = await (await fetch(url)).text();
  expect(text.match(/^id: /gm)).toHaveLength(200);
  expect(made[1]).toBe(200);
  // What the kernel took, a slice, and heartbeats not at all: not 40 MB.
  expect(made[0]).toBeLessThan(100);
  const held = responses[0]!.writableLength;
  expect(held).toBeLessThan(1_000_000);
  await ended[0];
  expect(responses[0]!.destroyed).toBe(true);
  expect(made[0]).toBeLessThan(100);
  deaf.destroy();
});

test('a client that is slow, and takes something now and then, is not cut, and gathers no listeners', async () => {
  const body = JSON.stringify('x'.repeat(1_000_000));
  const { port, responses } = await serve(
    async function* () {
      for (let n = 0; n < 20; n++) yield { messages: [message(n, body)], through: position(n) };
    },
    { stalledMs: 2_000 },
  );
  const slow = connect(port, '127.0.0.1');
  slow.write('GET / HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n');
  let bytes = 0;
  let listeners = 0;
  slow.on('data', (chunk) => {
    bytes += chunk.length;
    const [to] = responses;
    listeners = Math.max(listeners, to!.listenerCount('close'), to!.listenerCount('drain'));
    slow.pause();
    void turn().then(() => slow.resume());
  });
  await once(slow, 'end');
  expect(bytes).toBeGreaterThan(20_000_000);
  expect(listeners).toBeLessThan(8);
}, 30_000);

test('the end that a client does not take is the end all the same', async () => {
  let may = true;
  const { port, responses, ended } = await serve(
    async function* (gone) {
      for (let n = 0; !gone.signal.aborted; n++) {
        yield { messages: [message(n, JSON.stringify('x'.repeat(200_000)))], through: position(n) };
      }
    },
    {
      stalledMs: 300,
      heartbeatMs: 5,
      mayRead: () => {
        if (!may) throw new ManagementError(401, 'revoked');
      },
    },
  );
  const deaf = connect(port, '127.0.0.1');
  deaf.on('error', () => {});
  deaf.write('GET / HTTP/1.1\r\nhost: x\r\n\r\n');
  deaf.pause();
  await expect.poll(() => responses[0]?.writableLength ?? 0).toBeGreaterThan(0);
  may = false;
  await ended[0];
  await expect.poll(() => responses[0]!.destroyed).toBe(true);
  deaf.destroy();
});

test('an end that waits behind a little that is not taken is not waited for', async () => {
  const small = JSON.stringify('x'.repeat(2_000));
  const { port, responses, ended } = await serve(
    async function* () {
      // The kernel takes nothing more, and what is left is too little to be waited for.
      for (let n = 0, left = 0; left === 0; n++) {
        yield { messages: [message(n, small)], through: position(n) };
        await turn();
        await turn();
        left = responses[0]!.writableLength;
      }
    },
    { stalledMs: 300 },
  );
  const deaf = connect(port, '127.0.0.1');
  deaf.on('error', () => {});
  deaf.write('GET / HTTP/1.1\r\nhost: x\r\n\r\n');
  deaf.pause();
  await expect.poll(() => ended.length).toBe(1);
  await ended[0];
  expect(responses[0]!.writableNeedDrain).toBe(false);
  await expect.poll(() => responses[0]!.destroyed).toBe(true);
  deaf.destroy();
});

test('whoever may read no longer is told so, also while nothing happens', async () => {
  let may = true;
  const { url, ended } = await serve(never, {
    heartbeatMs: 5,
    mayRead: () => {
      if (!may) throw new ManagementError(401, 'revoked');
    },
  });
  const answer = await fetch(url);
  may = false;
  const text = await answer.text();
  expect(text).toMatch(/event: error\ndata: \{"code":"authn"\}\n\n$/);
  await ended[0];
});

test('a bug ends the stream with its code, and its text is told nobody', async () => {
  const lines: string[] = [];
  const { url } = await serve(
    // biome-ignore lint/correctness/useYield: it fails first.
    async function* () {
      throw new TypeError('a-value-of-a-row');
    },
    { log: (line) => void lines.push(line) },
  );
  const text = await (await fetch(url)).text();
  expect(text).toMatch(/event: error\ndata: \{"code":"internal"\}\n\n$/);
  expect(lines.join()).toContain('TypeError');
  expect(lines.join() + text).not.toContain('a-value-of-a-row');
});

test('every line of the data is one of the event', async () => {
  const { url } = await serve(async function* () {
    yield { messages: [message(0, '{"a":\r1,\r\n"b":\n2}')], through: position(3) };
  });
  const text = await (await fetch(url)).text();
  expect(text).toBe(':\n\nid: 0/16B3748#0\ndata: {"a":\ndata: 1,\ndata: "b":\ndata: 2}\n\nid: 0/16B3748#3\n\n');
});

test('whoever goes on after the id of any event gets exactly the events behind it', () => {
  const changes = fc.array(fc.integer({ min: 0, max: 4 }), { minLength: 1, maxLength: 8 });
  fc.assert(
    fc.property(changes, fc.nat(40), (counts, at) => {
      const all = counts.flatMap((count, ordinal) =>
        Array.from({ length: count }, (_, sub) => message(ordinal, `${ordinal}.${sub}`, sub, sub === count - 1)),
      );
      const cut = at % (all.length + 1);
      if (cut === 0) return;
      const place = parseEventId(eventId(all[cut - 1]!))!;
      const again = all.filter(({ position: { ordinal } }) => ordinal > place.after.ordinal);
      expect(again.filter((one) => !wasSeen(one, place))).toEqual(all.slice(cut));
    }),
  );
});

test('what is not an id is none', () => {
  for (const text of [
    '',
    'x',
    '0/1',
    '0/1#',
    '0/1#0.',
    '0/1#0.0',
    '0/1#0.-1',
    '0/1#0.1.1',
    `0/1#0.${'9'.repeat(20)}`,
  ]) {
    expect([text, parseEventId(text)]).toEqual([text, null]);
  }
});
