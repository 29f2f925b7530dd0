import { type AddressInfo, createServer } from 'node:net';
import { natsKind } from '@millrace/sinks/nats';
import { NATS_SECRETS, type NatsServerOptions, natsMissing, startNats } from '@millrace/testkit/servers/nats';
import { createAccount, createOperator, createUser, type KeyPair } from '@nats-io/nkeys';
import { afterAll, beforeAll, describe, expect, onTestFinished, test, vi } from 'vitest';
import { deliver, factsOf, messageTo, openSink, refusalOf, routeOf } from './broker-message.ts';
import { type NatsBench, startNatsBench } from './nats-target.ts';
import { registerPushSinkContract } from './push-sink-contract.ts';

const missing = await natsMissing();

registerPushSinkContract({
  kind: natsKind,
  module: import.meta.resolve('@millrace/sinks/nats'),
  exportName: 'natsKind',
  missing,
  start: async () => (await startNatsBench()).target(),
});

describe('nats: where a message goes', () => {
  const destination = { type: 'nats', host: 'nats.example.com' };

  test('to a subject of database, schema, table and action', () => {
    expect(routeOf(natsKind, destination)).toEqual({ subject: 'sequin.shop.public.orders.insert', headers: {} });
    expect(routeOf(natsKind, { ...destination, subject: 'all' })).toEqual({ subject: 'all', headers: {} });
  });

  test('names of tables neither add tokens nor become wildcards', () => {
    const odd = { databaseName: 'my db', schema: 'a.b', table: '>*\t', action: 'update' as const };
    expect(routeOf(natsKind, destination, odd)).toMatchObject({ subject: 'sequin.my_db.a_b.___.update' });
    const unicode = { table: 'žluť' };
    expect(routeOf(natsKind, destination, unicode)).toMatchObject({ subject: 'sequin.shop.public.žluť.insert' });
  });

  test('a logical message has a subject without table', () => {
    const logical = { schema: '', table: '', action: 'message' as const };
    expect(routeOf(natsKind, destination, logical)).toMatchObject({ subject: 'sequin.shop.message' });
  });

  test('a routing function returns subjects that can be published to, and headers of one line', () => {
    for (const subject of ['a.b-c_1', 'a']) expect(natsKind.routing?.safeParse({ subject }).success).toBe(true);
    for (const subject of ['', 'a b', 'a..b', '.a', 'a.', 'a.*', '>', 'a\r\nPUB x', 'x'.repeat(256)]) {
      expect([subject, natsKind.routing?.safeParse({ subject }).success]).toEqual([subject, false]);
    }
    expect(natsKind.routing?.safeParse({ headers: { 'X-Team': 'ü' } }).success).toBe(true);
    for (const headers of [{ 'a:b': '1' }, { '': '1' }, { a: '1\r\nb: 2' }, { a: 1 }]) {
      expect(natsKind.routing?.safeParse({ headers }).success).toBe(false);
    }
  });
});

describe.skipIf(missing !== null)(`nats: what NATS does with it${missing === null ? '' : ` (${missing})`}`, () => {
  let bench: NatsBench;
  beforeAll(async () => {
    bench = await startNatsBench();
  }, 180_000);
  afterAll(() => bench?.stop());

  async function other(options: NatsServerOptions) {
    const server = await startNats(options);
    onTestFinished(() => server.stop());
    return { server, destination: { type: 'nats', host: server.host, port: server.port, jetstream: false } };
  }

  test('headers of the route and the idempotency key go with the message', async () => {
    const place = await bench.newPlace();
    const destination = { ...bench.destination(place, 'direct'), stream: place };
    const sink = await openSink(natsKind, destination);
    const message = messageTo(natsKind, destination, { routed: { headers: { 'X-Team': 'müller' } } });
    expect(await deliver(sink, message)).toEqual([null]);
    const [received] = await bench.received(place);
    expect(received?.header('X-Team')).toBe('müller');
    expect(received?.idempotencyKey).toBe(message.idempotencyKey);
  });

  test('a message that arrives again is kept once, and acknowledged', async () => {
    const place = await bench.newPlace();
    const destination = bench.destination(place, 'direct');
    const message = messageTo(natsKind, destination);
    for (let time = 0; time < 3; time++) {
      expect(await deliver(await openSink(natsKind, destination), message)).toEqual([null]);
    }
    expect((await bench.received(place)).length).toBe(1);
  });

  test('a subject that no stream takes is refused with the command that makes one; its neighbours arrive', async () => {
    const place = await bench.newPlace();
    const destination = bench.destination(place, 'direct');
    const sink = await openSink(natsKind, destination);
    const [good, bad] = await deliver(
      sink,
      messageTo(natsKind, destination),
      messageTo(natsKind, destination, { routed: { subject: 'nobody.there' } }),
    );
    expect(good).toBeNull();
    expect(bad).toMatchObject({
      code: 'sink_refused',
      detail: expect.stringContaining('"nobody.there"'),
      hint: expect.stringContaining('nats stream add'),
    });
    expect(bad?.logText).not.toContain('nobody');
    const configured = { ...destination, subject: 'nobody.there' };
    const [refused] = await deliver(await openSink(natsKind, configured), messageTo(natsKind, configured));
    expect(refused?.logText).toContain('"nobody.there"');
  });

  test('another stream than the configured one is refused, by the test and by a delivery', async () => {
    const [place, wanted] = [await bench.newPlace(), await bench.newPlace()];
    const destination = { ...bench.destination(place, 'direct'), stream: wanted };
    const sink = await openSink(natsKind, destination);
    const [error] = await deliver(sink, messageTo(natsKind, destination));
    expect(error).toMatchObject({ code: 'sink_refused', hint: expect.stringContaining(wanted) });
    expect(await refusalOf(sink)).toMatchObject({ code: 'sink_refused', hint: expect.stringContaining(wanted) });
    const none = { ...destination, subject: undefined, stream: 'NONE' };
    expect(await refusalOf(await openSink(natsKind, none))).toMatchObject({
      code: 'sink_refused',
      hint: expect.stringContaining('nats stream add NONE'),
    });
  });

  test('a stream that is full is unavailable until there is room', async () => {
    const place = await bench.newPlace({ max_msgs: 2, discard: 'new' });
    const destination = bench.destination(place, 'direct');
    const sink = await openSink(natsKind, destination);
    const messages = [1, 2, 3].map(() => messageTo(natsKind, destination));
    const errors = await deliver(sink, ...messages);
    expect(errors.map((error) => error?.code ?? null)).toEqual([null, null, 'sink_unavailable']);
    expect(errors[2]?.hint).toContain('full');
    await bench.manager.streams.purge(place);
    expect(await deliver(sink, ...messages.slice(2))).toEqual([null]);
  });

  test('what is too large for the stream, or for the server, is too large', async () => {
    const place = await bench.newPlace({ max_msg_size: 100 });
    const destination = { ...bench.destination(place, 'direct'), max_payload: 8 * 1024 * 1024 };
    const sink = await openSink(natsKind, destination);
    for (const length of [1_000, 2 * 1024 * 1024]) {
      const [error] = await deliver(sink, messageTo(natsKind, destination, { body: 'x'.repeat(length) }));
      expect([length, error?.code]).toEqual([length, 'sink_record_too_large']);
    }
    expect(await refusalOf(sink)).toMatchObject({ hint: expect.stringContaining('max_payload: 1048576') });
  });

  test('a user who may not publish to a subject is denied, with JetStream and without', async () => {
    const place = await bench.newPlace();
    for (const jetstream of [true, false]) {
      const destination = {
        ...bench.destination(place, 'direct'),
        ...{ username: 'limited', password: NATS_SECRETS.limited, jetstream },
      };
      const sink = await openSink(natsKind, destination);
      const [error] = await deliver(sink, messageTo(natsKind, destination));
      expect([jetstream, error?.code]).toEqual([jetstream, 'sink_denied']);
    }
  });

  test('core NATS hands messages to whoever listens, where asked for', async () => {
    const destination = { ...bench.destination('core', 'direct'), jetstream: false };
    const heard = bench.connection.subscribe('core.all', { max: 1 });
    await bench.connection.flush();
    const sink = await openSink(natsKind, destination);
    await sink.test(new AbortController().signal);
    const message = messageTo(natsKind, destination);
    expect(await deliver(sink, message)).toEqual([null]);
    for await (const received of heard) {
      expect(Buffer.from(received.data)).toEqual(message.body);
      expect(received.headers?.get('Nats-Msg-Id')).toBe(message.idempotencyKey);
    }
  });

  test('a server of the list takes the place of one that cannot be reached', async () => {
    const place = await bench.newPlace();
    const { host, port } = bench.server;
    const destination = { ...bench.destination(place, 'direct'), port: 1, servers: [`nats://${host}:${port}`] };
    const sink = await openSink(natsKind, destination);
    await vi.waitUntil(async () => (await deliver(sink, messageTo(natsKind, destination)))[0] === null, {
      timeout: 30_000,
    });
  });

  test('a server whose name is gone, or that sinks may not connect to, leaves the others in use', async () => {
    const place = await bench.newPlace();
    const { host, port } = bench.server;
    const well = `${host}:${port}`;
    const refused = '169.254.169.254:4222';
    const cases = [
      { host: 'nats-0.invalid', port: 4222, servers: [well] },
      { host, port, servers: ['nats-1.invalid:4222', refused] },
      { host: '169.254.169.254', port: 4222, servers: ['nats-1.invalid', `nats://${well}`] },
    ];
    for (const servers of cases) {
      const destination = { ...bench.destination(place, 'direct'), ...servers };
      const sink = await openSink(natsKind, destination);
      expect(await deliver(sink, messageTo(natsKind, destination))).toEqual([null]);
    }
    const none = { ...bench.destination(place, 'direct'), host: 'nats-0.invalid', port: 4223, servers: [refused] };
    const error = await refusalOf(await openSink(natsKind, none));
    expect(error.code).toBe('sink_unavailable');
    expect(error.detail).toMatch(/nats-0\.invalid:4223: \w+\. .*169\.254\.169\.254/);
    expect(error.hint).toContain('--sinks-allow 169.254.169.254');
    const forbidden = { ...none, host: '169.254.169.254', servers: ['169.254.169.253:4222'] };
    const refusal = await refusalOf(await openSink(natsKind, forbidden));
    expect(refusal).toMatchObject({ code: 'sink_address_refused', detail: expect.stringContaining('169.254.169.253') });
  });

  test('a server that sinks may not connect to is never connected to, whatever becomes of the others', async () => {
    const place = await bench.newPlace();
    let connections = 0;
    const forbidden = createServer((socket) => {
      connections++;
      socket.destroy();
    });
    await new Promise<void>((resolve) => forbidden.listen(0, '127.0.0.1', resolve));
    onTestFinished(() => void forbidden.close());
    const { port } = forbidden.address() as AddressInfo;
    // Servers are tried in any order: of eight sinks one at least would begin with it.
    for (const servers of Array.from({ length: 8 }, () => [`127.0.0.1:${port}`, 'nats-1.invalid:4222'])) {
      const destination = { ...bench.destination(place, 'direct'), host: 'localhost', servers };
      const sink = await openSink(natsKind, destination, { network: { allowPrivate: false, allow: ['localhost'] } });
      expect(await deliver(sink, messageTo(natsKind, destination))).toEqual([null]);
    }
    expect(connections).toBe(0);
  });

  test('a server without JetStream is told by the test', async () => {
    const { destination } = await other({ jetstream: false, authorization: '' });
    const sink = await openSink(natsKind, { ...destination, jetstream: true });
    expect(await refusalOf(sink)).toMatchObject({ code: 'sink_refused', hint: expect.stringContaining('-js') });
  });

  test('a token, an NKey and a JWT open the door, others do not', async () => {
    const [operator, account, user] = [createOperator(), createAccount(), createUser()];
    const nkeySeed = new TextDecoder().decode(user.getSeed());
    const stranger = new TextDecoder().decode(createUser().getSeed());
    const cases = [
      [`authorization { token: "token-secret" }`, { token: 'token-secret' }, { token: 'other' }],
      [
        `authorization { users = [ { nkey: ${user.getPublicKey()} } ] }`,
        { nkey_seed: nkeySeed },
        { nkey_seed: stranger },
      ],
      [
        jwtConfiguration(operator, account),
        { jwt: jwtOf(account, user, 'user', UNLIMITED_USER), nkey_seed: nkeySeed },
        { jwt: jwtOf(createAccount(), user, 'user', UNLIMITED_USER), nkey_seed: nkeySeed },
      ],
    ] as const;
    for (const [authorization, right, wrong] of cases) {
      const { destination } = await other({ jetstream: false, authorization });
      const sink = await openSink(natsKind, { ...destination, ...right });
      expect(await deliver(sink, messageTo(natsKind, destination))).toEqual([null]);
      expect(await refusalOf(await openSink(natsKind, { ...destination, ...wrong }))).toMatchObject({
        code: 'sink_denied',
      });
    }
  });

  test('TLS is used and the certificate verified', async () => {
    const { server, destination } = await other({ tls: true, authorization: '' });
    const [ca, strangerCa] = [server.certificates?.ca, server.certificates?.strangerCa];
    const secure = { ...destination, tls: true, ca };
    expect(await deliver(await openSink(natsKind, secure), messageTo(natsKind, secure))).toEqual([null]);
    for (const wrong of [strangerCa, undefined]) {
      const error = await refusalOf(await openSink(natsKind, { ...secure, ca: wrong }));
      expect(error).toMatchObject({ code: 'sink_unavailable', hint: expect.stringContaining('certificate') });
    }
    // Neither is a password sent to a server that has no TLS where TLS is wanted.
    const plain = { ...bench.destination('x', 'direct'), tls: true };
    expect(await refusalOf(await openSink(natsKind, plain))).toMatchObject({ hint: expect.stringContaining('no TLS') });
  });

  test('the size that counts is that of body and headers', async () => {
    const place = await bench.newPlace();
    const destination = bench.destination(place, 'direct');
    const sink = await openSink(natsKind, destination);
    const message = messageTo(natsKind, destination, { routed: { headers: { a: 'b' } } });
    const { idempotencyKey } = factsOf(message);
    const block = `NATS/1.0\r\na: b\r\nNats-Msg-Id: ${idempotencyKey}\r\n\r\n`;
    expect(sink.sizeOf(message)).toBe(message.body.length + block.length);
  });
});

const UNLIMITED_USER = { pub: {}, sub: {}, subs: -1, data: -1, payload: -1 };
const UNLIMITED_ACCOUNT = {
  limits: { subs: -1, data: -1, payload: -1, imports: -1, exports: -1, wildcards: true, conn: -1, leaf: -1 },
  default_permissions: { pub: {}, sub: {} },
};

/** As the tools of NATS make them: claims about a key, signed by another. */
function jwtOf(issuer: KeyPair, subject: KeyPair, type: string, claims: Record<string, unknown>): string {
  const part = (value: unknown) => Buffer.from(JSON.stringify(value)).toString('base64url');
  const signed = `${part({ typ: 'JWT', alg: 'ed25519-nkey' })}.${part({
    jti: type,
    iat: Math.floor(Date.now() / 1000),
    iss: issuer.getPublicKey(),
    sub: subject.getPublicKey(),
    name: type,
    nats: { ...claims, type, version: 2 },
  })}`;
  return `${signed}.${Buffer.from(issuer.sign(new TextEncoder().encode(signed))).toString('base64url')}`;
}

function jwtConfiguration(operator: KeyPair, account: KeyPair): string {
  return [
    `operator: "${jwtOf(operator, operator, 'operator', {})}"`,
    'resolver: MEMORY',
    `resolver_preload: { ${account.getPublicKey()}: "${jwtOf(operator, account, 'account', UNLIMITED_ACCOUNT)}" }`,
  ].join('\n');
}
