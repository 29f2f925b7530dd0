import { once } from 'node:events';
import { connect, createServer, type Server, type Socket } from 'node:net';
import { holdDeadPort, listen } from '@millrace/testkit/dead-port';
import { startProxy, type TcpProxy } from '@millrace/testkit/proxy';
import { afterEach, beforeEach, expect, test } from 'vitest';

let echo: Server;
let proxy: TcpProxy;

beforeEach(async () => {
  echo = createServer((socket) => socket.on('error', () => {}).pipe(socket));
  proxy = await startProxy({ port: await listen(echo, 0) });
});

afterEach(async () => {
  await proxy.close();
  echo.close();
});

async function open(): Promise<Socket> {
  const socket = connect(proxy.port, '127.0.0.1');
  await once(socket, 'connect');
  return socket.on('error', () => {});
}

function closing(socket: Socket): Promise<void> {
  return new Promise((closed) => socket.once('close', () => closed()));
}

async function roundTrip(socket: Socket, text: string): Promise<string> {
  const answer = once(socket, 'data');
  socket.write(text);
  return String((await answer)[0]);
}

test('what goes in comes out', async () => {
  const socket = await open();
  expect(await roundTrip(socket, 'hello')).toBe('hello');
  expect(proxy.bytesPassed).toBe(10);
  socket.end();
  await closing(socket);
});

test('refusing cuts what is open and refuses what is new, until it passes again', async () => {
  const socket = await open();
  const closed = closing(socket);
  await proxy.refuse();
  await closed;
  await expect(open()).rejects.toMatchObject({ code: 'ECONNREFUSED' });
  await proxy.pass();
  expect(await roundTrip(await open(), 'again')).toBe('again');
});

test('a black hole swallows nothing: bytes wait and go on when it ends', async () => {
  const before = await open();
  await proxy.blackHole();
  const during = await open();
  const answers = Promise.all([roundTrip(before, 'a'), roundTrip(during, 'b')]);
  const first = await Promise.race([answers, new Promise((late) => setTimeout(late, 100, 'silence'))]);
  expect(first).toBe('silence');
  await proxy.pass();
  expect(await answers).toEqual(['a', 'b']);
});

test('a delay holds every chunk', async () => {
  await proxy.delay(60);
  const socket = await open();
  const started = performance.now();
  await roundTrip(socket, 'slow');
  expect(performance.now() - started).toBeGreaterThanOrEqual(115);
});

test('a cut ends what is open and leaves the door open', async () => {
  const socket = await open();
  await roundTrip(socket, 'x');
  const closed = closing(socket);
  proxy.cut();
  await closed;
  expect(await roundTrip(await open(), 'y')).toBe('y');
});

test('a held dead port refuses, and is free again when released', async () => {
  const dead = await holdDeadPort();
  const socket = connect(dead.port, '127.0.0.1');
  await expect(once(socket, 'connect')).rejects.toMatchObject({ code: 'ECONNREFUSED' });
  await dead.release();
  const server = createServer();
  expect(await listen(server, dead.port)).toBe(dead.port);
  server.close();
});
