import { once } from 'node:events';
import http2 from 'node:http2';
import net from 'node:net';
import { MillraceError } from '@millrace/core/error';
import { describe, expect, it, onTestFinished, vi } from 'vitest';
import { startHttpServer } from '../src/http/server.ts';
import { appendSession, encodeAppendInput, frame, recordsPath } from './s2s-client.ts';
import { askHttp1, newBasin, type Served, serve, serveForFile } from './serve.ts';

const served = await serveForFile({ headersTimeoutMs: 300 });

function connect({ port }: Served): net.Socket {
  const socket = net.connect(port, '127.0.0.1');
  socket.on('error', () => {});
  onTestFinished(() => {
    socket.destroy();
  });
  return socket;
}

async function received(socket: net.Socket): Promise<string> {
  let text = '';
  socket.setEncoding('latin1');
  socket.on('data', (chunk: string) => (text += chunk));
  await once(socket, 'close');
  return text;
}

describe('the listener', () => {
  it('tells them apart when the first bytes come one by one', async () => {
    const plain = connect(served);
    for (const byte of 'PUT /nothing HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n') {
      plain.write(byte);
      await new Promise((resolve) => setImmediate(resolve));
    }
    expect(await received(plain)).toMatch(/^HTTP\/1\.1 404 /);

    const slow = connect(served);
    const session = http2.connect(served.url, {
      createConnection: () => {
        const write = slow.write.bind(slow);
        // The preface in two pieces, cut where it could still be a PRI request of HTTP/1.1.
        slow.write = ((chunk: Buffer, ...rest: unknown[]) => {
          write(chunk.subarray(0, 10));
          return (
            setTimeout(() => (write as (...args: unknown[]) => boolean)(chunk.subarray(10), ...rest), 20) !== undefined
          );
        }) as typeof slow.write;
        return slow;
      },
    });
    session.on('error', () => {});
    onTestFinished(() => session.destroy());
    const stream = session.request({ ':path': '/health' });
    const [head] = await once(stream, 'response');
    expect(head[':status']).toBe(200);
  });

  it('does not cut an append session over HTTP/1.1 that lasts longer than headers may', async () => {
    const basin = await newBasin(served);
    const socket = connect(served);
    const chunk = (bytes: Buffer) =>
      Buffer.concat([Buffer.from(`${bytes.length.toString(16)}\r\n`), bytes, Buffer.from('\r\n')]);
    const one = frame(encodeAppendInput({ records: [{ body: 'one' }] }));
    socket.write(
      `POST ${recordsPath('s')} HTTP/1.1\r\nhost: x\r\ns2-basin: ${basin}\r\ncontent-type: s2s/proto\r\ntransfer-encoding: chunked\r\nconnection: close\r\n\r\n`,
    );
    socket.write(chunk(one));
    const opened = await served.store.openStream(basin, 's', 'append');
    await opened.waitBeyond(0, new AbortController().signal);
    await new Promise((resolve) => setTimeout(resolve, 700));
    socket.write(chunk(one));
    socket.write('0\r\n\r\n');
    expect(await received(socket)).toMatch(/^HTTP\/1\.1 200 /);
    expect(opened.tail.seqNum).toBe(2);
  });

  // Node waits for what is being written then, and nobody completes it: the connection would stay for ever.
  const large = { records: Array.from({ length: 4 }, () => ({ body: 'x'.repeat(500_000) })) };
  const s2s = { 'content-type': 's2s/proto' };
  it.each([
    ['a read session', { ':method': 'GET', ':path': recordsPath('s', 'seq_num=0'), ...s2s }],
    ['a read by SSE', { ':method': 'GET', ':path': recordsPath('s', 'seq_num=0'), accept: 'text/event-stream' }],
    ['a read', { ':method': 'GET', ':path': recordsPath('s', 'seq_num=0') }],
  ])('lets go of %s that its client resets without an error, and of the connection', async (_, headers) => {
    const basin = await newBasin(served);
    await askHttp1(served, recordsPath('s'), { method: 'POST', headers: { 's2-basin': basin }, json: large });
    const client = http2.connect(served.url, { settings: { initialWindowSize: 0 } });
    client.on('error', () => {});
    onTestFinished(() => client.destroy());
    const request = client.request({ ...headers, 's2-basin': basin });
    request.on('error', () => {});
    await once(request, 'response');
    // What the server wrote meanwhile waits for a window.
    await new Promise<void>((resolve) => client.ping(() => resolve()));
    request.close(http2.constants.NGHTTP2_NO_ERROR);
    await new Promise<void>((resolve) => client.close(resolve));
  });

  it.each([
    ['a request refused before its end', '/v1/nothing', Buffer.from('{')],
    ['an append session', recordsPath('t'), frame(encodeAppendInput({ records: [{ body: 'one' }] }))],
  ])('lets go of %s that is reset without an error', async (_, path, body) => {
    const basin = await newBasin(served);
    const h2Frame = (type: number, flags: number, id: number, payload: Buffer) => {
      const head = Buffer.alloc(9);
      head.writeUIntBE(payload.length, 0, 3);
      head.set([type, flags], 3);
      head.writeUInt32BE(id, 5);
      return Buffer.concat([head, payload]);
    };
    // Literal, not indexed.
    const header = ([name, value]: readonly [string, string]) =>
      Buffer.from(`\0${String.fromCharCode(name.length)}${name}${String.fromCharCode(value.length)}${value}`, 'latin1');
    const socket = connect(served);
    const request = {
      ':method': 'POST',
      ':scheme': 'http',
      ':path': path,
      ':authority': 'x',
      ...s2s,
      's2-basin': basin,
    };
    const headers = Object.entries(request).map(header);
    socket.write('PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n');
    // No window for any answer.
    socket.write(h2Frame(4, 0, 0, Buffer.from([0, 4, 0, 0, 0, 0])));
    socket.write(h2Frame(1, 4, 1, Buffer.concat(headers)));
    socket.write(h2Frame(0, 0, 1, body));
    let seen = Buffer.alloc(0);
    // The head of its answer.
    const answered = () => {
      for (let at = 0; at + 9 <= seen.length; at += 9 + seen.readUIntBE(at, 3)) if (seen[at + 3] === 1) return true;
      return false;
    };
    for await (const chunk of socket.iterator({ destroyOnReturn: false })) {
      seen = Buffer.concat([seen, chunk as Buffer]);
      if (answered()) break;
    }
    if (path === recordsPath('t')) {
      const stream = await served.store.openStream(basin, 't', 'append');
      await stream.waitBeyond(0, new AbortController().signal);
    }
    socket.write(h2Frame(3, 0, 1, Buffer.alloc(4)));
    socket.write(h2Frame(7, 0, 0, Buffer.alloc(8)));
    socket.end();
    socket.resume();
    await once(socket, 'close');
  });

  it('cuts a client that neither ends its request nor takes its answer', async () => {
    const own = await serve({ answerTimeoutMs: 3_000, requestTimeoutMs: 100 });
    onTestFinished(() => own.stop());
    const client = http2.connect(own.url, { settings: { initialWindowSize: 0 } });
    onTestFinished(() => client.destroy());
    const request = client.request({ ':method': 'POST', ':path': '/v1/nothing' });
    request.on('error', () => {});
    request.write('{');
    await once(request, 'response');
    await once(request, 'close');
    expect(request.rstCode).toBe(http2.constants.NGHTTP2_CANCEL);
  });

  describe.each(['http1', 'http2'])('a client over %s that left before its stream was opened', (protocol) => {
    /** Sends the request, and goes once the server is opening the stream; which goes on when it knows. */
    async function askAndLeave(
      target: Served,
      basin: string,
      method: string,
      path: string,
      more: Record<string, string>,
    ): Promise<void> {
      const opening = Promise.withResolvers<void>();
      const gate = Promise.withResolvers<void>();
      const opened = Promise.withResolvers<void>();
      const spy = vi.spyOn(target.store, 'openStream').mockImplementation(async (...args) => {
        spy.mockRestore();
        opening.resolve();
        await gate.promise;
        const stream = await target.store.openStream(...args);
        opened.resolve();
        return stream;
      });
      const headers = { 's2-basin': basin, ...more };
      if (protocol === 'http2') {
        const client = http2.connect(target.url);
        onTestFinished(() => client.destroy());
        const request = client.request({ ':method': method, ':path': path, ...headers }, { endStream: true });
        request.on('error', () => {});
        await opening.promise;
        request.close(http2.constants.NGHTTP2_CANCEL);
        await new Promise<void>((resolve) => client.close(resolve));
      } else {
        const socket = connect(target);
        const lines = Object.entries(headers).map(([name, value]) => `${name}: ${value}\r\n`);
        socket.write(`${method} ${path} HTTP/1.1\r\nhost: x\r\ncontent-length: 0\r\n${lines.join('')}\r\n`);
        await opening.promise;
        socket.destroy();
      }
      await expect.poll(() => gauge(target, 'millrace_http_open_requests')).toBe(1);
      gate.resolve();
      await opened.promise;
    }

    async function gauge(target: Served, name: string): Promise<number> {
      const { text } = await askHttp1(target, '/metrics');
      return Number(new RegExp(`^${name} (\\d+)$`, 'm').exec(text)![1]);
    }

    it.each([
      ['a read session', 'GET', 'seq_num=0', { 'content-type': 's2s/proto' }],
      ['a read by SSE', 'GET', 'seq_num=0', { accept: 'text/event-stream' }],
      ['a read that waits', 'GET', 'seq_num=0&wait=60', {}],
      ['an append session', 'POST', '', { 'content-type': 's2s/proto' }],
    ])('leaves nothing of %s behind', async (_, method, query, more) => {
      const own = await serve();
      onTestFinished(() => own.stop());
      await askAndLeave(own, await newBasin(own), method, recordsPath('s', query), more as Record<string, string>);
      // The session that would stay has begun by then.
      await askHttp1(own, '/health');
      expect(await gauge(own, 'millrace_http_sessions')).toBe(0);
    });
  });

  it('names the port when it is in use', async () => {
    const error = await startHttpServer({ store: served.store, port: served.port }).catch((error: unknown) => error);
    expect(error).toBeInstanceOf(MillraceError);
    expect((error as MillraceError).code).toBe('port_in_use');
    expect((error as MillraceError).message).toContain(String(served.port));
  });
});

describe('a draining server', () => {
  it('advises to reconnect with the acknowledgements that were outstanding', async () => {
    const draining = await serve();
    const basin = await newBasin(draining);
    const gate = Promise.withResolvers<void>();
    const spy = vi.spyOn(draining.store, 'openStream').mockImplementation(async (...args) => {
      spy.mockRestore();
      const opened = await draining.store.openStream(...args);
      const append = opened.append.bind(opened);
      opened.append = (input) => append(input).then((ack) => gate.promise.then(() => ack));
      return opened;
    });
    const writer = appendSession(draining, basin, 's');
    writer.send(frame(encodeAppendInput({ records: [{ body: 'one' }] })));
    await expect.poll(() => draining.store.listStreams(basin, {}).items.length).toBe(1);
    const stream = await draining.store.openStream(basin, 's', 'read');
    await stream.waitBeyond(0, new AbortController().signal);
    const closing = draining.server.close({ graceMs: 5_000 });
    gate.resolve();
    await writer.until(() => writer.ended);
    expect(writer.acks).toHaveLength(1);
    expect(writer.frames[0]!.flag).toBe(0x10);
    expect(writer.terminal).toMatchObject({ status: 503, body: { code: 'server_draining' } });
    writer.end();
    await closing;
    await draining.stop();
  });

  it('refuses new requests on old connections with server_draining', async () => {
    const draining = await serve();
    const post = 'POST /v1/basins HTTP/1.1\r\nhost: x\r\ncontent-type: application/json\r\ncontent-length: 2\r\n\r\n';
    // The one keeps the server from closing; the other is not idle, because its request is not complete.
    const stuck = connect(draining);
    stuck.write(post);
    const old = connect(draining);
    const answers = received(old);
    old.write(`${post}{`);
    await expect.poll(async () => (await askHttp1(draining, '/health')).status).toBe(200);
    const closing = draining.server.close({ graceMs: 1_000 });
    old.write('}GET /v1/basins HTTP/1.1\r\nhost: x\r\n\r\n');
    expect(await answers).toMatch(/"bad_json".*HTTP\/1.1 503 .*"server_draining"/s);
    await closing;
    await draining.stop();
  });

  it('cuts what does not end within the grace', async () => {
    const draining = await serve();
    const stuck = connect(draining);
    stuck.write('POST /v1/basins HTTP/1.1\r\nhost: x\r\ncontent-type: application/json\r\ncontent-length: 9\r\n\r\n');
    await expect.poll(async () => (await askHttp1(draining, '/health')).status).toBe(200);
    const startedAt = performance.now();
    await draining.server.close({ graceMs: 200 });
    expect(performance.now() - startedAt).toBeLessThan(2_000);
    await draining.stop();
  });
});
