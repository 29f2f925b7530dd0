import { once } from 'node:events';
import { chownSync, statSync, writeFileSync } from 'node:fs';
import { type AddressInfo, createServer } from 'node:net';
import { networkInterfaces } from 'node:os';
import { join } from 'node:path';
import { MillraceError } from '@millrace/core/error';
import { holdDeadPort, listen } from '@millrace/testkit/dead-port';
import { type OwnPostgres, startOwnPostgres } from '@millrace/testkit/postgres';
import { startProxy } from '@millrace/testkit/proxy';
import { afterAll, beforeAll, describe, expect, test } from 'vitest';
import { type ConnectionConfig, PgConnection, quoteIdentifier, quoteLiteral } from '../src/connection.ts';
import { PgServerError } from '../src/server-error.ts';
import { makeCertificates } from './certificate.ts';

const certificates = makeCertificates('localhost');
const stranger = makeCertificates('localhost');
let postgres: OwnPostgres;
let config: ConnectionConfig;

beforeAll(async () => {
  postgres = await startOwnPostgres({ fsync: 'off', superuser_reserved_connections: '0', max_connections: '20' });
  const { server } = postgres;
  config = {
    host: '127.0.0.1',
    port: server.port,
    database: 'postgres',
    user: 'postgres',
    password: server.password,
    ssl: 'disable',
  };
  const admin = await PgConnection.connect(config);
  await admin.query(`
    CREATE ROLE scram_user LOGIN PASSWORD 'pässword \u00a0x';
    CREATE ROLE clear_user LOGIN PASSWORD 'clear';
    CREATE ROLE trusted_user LOGIN;
    CREATE ROLE rejected_user LOGIN;
    CREATE ROLE tls_user LOGIN PASSWORD 'tls';
    SET password_encryption = md5;
    CREATE ROLE md5_user LOGIN PASSWORD 'md5 secret';`);
  await admin.close();
  writeFor(server.dataDir, 'server.crt', certificates.server.pem);
  writeFor(server.dataDir, 'server.key', certificates.server.keyPem);
  writeFor(
    server.dataDir,
    'pg_hba.conf',
    `local all all scram-sha-256
     host all md5_user 127.0.0.1/32 md5
     host all clear_user 127.0.0.1/32 password
     host all trusted_user 127.0.0.1/32 trust
     host all rejected_user 127.0.0.1/32 reject
     hostssl all tls_user 127.0.0.1/32 scram-sha-256
     host all postgres,scram_user all scram-sha-256`,
  );
  await server.restart();
});

afterAll(async () => {
  await postgres?.remove();
});

/** The server refuses a key that others may read, or that is not its user's. */
function writeFor(dataDir: string, file: string, content: string): void {
  const { uid, gid } = statSync(dataDir);
  const path = join(dataDir, file);
  writeFileSync(path, content, { mode: 0o600 });
  chownSync(path, uid, gid);
}

/** A second server with TLS on, made of the first by ALTER SYSTEM. */
async function setTls(on: boolean): Promise<void> {
  const admin = await PgConnection.connect(config);
  await admin.query(`ALTER SYSTEM SET ssl = ${on ? 'on' : 'off'}`);
  await admin.close();
  await postgres.server.restart();
}

async function failure(changes: Partial<ConnectionConfig>, signal?: AbortSignal): Promise<MillraceError> {
  const outcome = await PgConnection.connect({ ...config, ...changes }, signal).catch((error: unknown) => error);
  if (outcome instanceof PgConnection) {
    await outcome.close();
    throw new Error('the connection was made');
  }
  expect(outcome).toBeInstanceOf(MillraceError);
  return outcome as MillraceError;
}

async function whoAmI(changes: Partial<ConnectionConfig>): Promise<string | null | undefined> {
  const connection = await PgConnection.connect({ ...config, ...changes });
  try {
    return (await connection.query('SELECT current_user')).rows[0]?.[0];
  } finally {
    await connection.close();
  }
}

describe('logging in', () => {
  test.each([
    ['SCRAM, with a password that is not ASCII', { user: 'scram_user', password: 'pässword \u00a0x' }],
    ['SCRAM, with the password in another normal form', { user: 'scram_user', password: 'pa\u0308ssword  x' }],
    ['md5', { user: 'md5_user', password: 'md5 secret' }],
    ['a password in clear over loopback', { user: 'clear_user', password: 'clear' }],
    ['no password where the server trusts', { user: 'trusted_user' }],
  ])('%s', async (_name, changes) => {
    expect(await whoAmI({ password: undefined, ...changes })).toBe(changes.user);
  });

  test('over a unix socket', async () => {
    expect(await whoAmI({ host: postgres.server.socketDir, ssl: 'verify-full' })).toBe('postgres');
  });

  test.each(['scram_user', 'md5_user', 'clear_user'])('a wrong password of %s is pg_auth_failed', async (user) => {
    const error = await failure({ user, password: 'wrong' });
    expect(error.code).toBe('pg_auth_failed');
    expect((error as PgServerError).sqlState).toBe('28P01');
    expect(error.hint).toContain(`ALTER ROLE "${user}" PASSWORD`);
    expect(`${error.message}${error.hint}`).not.toContain('wrong');
  });

  test('a missing password says which one is missing', async () => {
    const error = await failure({ user: 'scram_user', password: undefined });
    expect(error.code).toBe('pg_auth_failed');
    expect(error.hint).toContain('scram_user');
  });

  test('a user that pg_hba.conf does not let in is told about pg_hba.conf', async () => {
    const error = await failure({ user: 'rejected_user' });
    expect(error.code).toBe('pg_auth_failed');
    expect((error as PgServerError).sqlState).toBe('28000');
    expect(error.hint).toContain('pg_hba.conf');
  });

  test('a database that does not exist is pg_database_missing', async () => {
    const error = await failure({ database: 'nowhere "x"' });
    expect(error.code).toBe('pg_database_missing');
    expect(error.hint).toContain('CREATE DATABASE "nowhere ""x""";');
  });

  test('a user without REPLICATION cannot open a replication connection', async () => {
    const error = await failure({ user: 'trusted_user', replication: true });
    expect(error.code).toBe('pg_replication_denied');
    expect(error.hint).toContain('ALTER ROLE "trusted_user" REPLICATION;');
  });

  test('no free connection is pg_too_many_connections', async () => {
    const held: PgConnection[] = [];
    let error: unknown;
    while (error === undefined && held.length < 30) {
      await PgConnection.connect(config).then(
        (connection) => held.push(connection),
        (reason) => {
          error = reason;
        },
      );
    }
    expect((error as MillraceError).code).toBe('pg_too_many_connections');
    await Promise.all(held.map((connection) => connection.close()));
  });

  test.each([
    ['role', 'ALTER ROLE trusted_user', 'CONNECTION LIMIT 1', /ALTER ROLE "trusted_user" CONNECTION LIMIT -1;/],
    ['database', 'ALTER DATABASE limited', 'CONNECTION LIMIT 0', /ALTER DATABASE "limited" CONNECTION LIMIT -1;/],
    [
      'database',
      'ALTER DATABASE limited',
      'ALLOW_CONNECTIONS false',
      /ALTER DATABASE "limited" ALLOW_CONNECTIONS true;/,
    ],
  ] as const)('a limit of the %s itself is told, with the SQL that lifts it: %s %s', async (_, what, limit, fix) => {
    const admin = await PgConnection.connect(config);
    await admin.query('ALTER ROLE trusted_user REPLICATION');
    await admin.query('CREATE DATABASE limited');
    await admin.query(`${what} ${limit}`);
    const as = { user: 'trusted_user', database: 'limited' };
    const held = await PgConnection.connect({ ...config, ...as }).catch(() => null);
    for (const replication of [false, true]) {
      const refused = await PgConnection.connect({ ...config, ...as, replication }).then(
        (connection) => connection.close(),
        (error: unknown) => error as MillraceError,
      );
      // A limit of a role is none for WAL senders.
      if (refused instanceof MillraceError) {
        expect(refused.code).not.toBe('pg_no_free_senders');
        expect(refused.hint).toMatch(fix);
      } else expect(replication).toBe(true);
    }
    await held?.close();
    await admin.query('DROP DATABASE limited WITH (FORCE)');
    await admin.query('ALTER ROLE trusted_user NOREPLICATION CONNECTION LIMIT -1');
    await admin.close();
  });
});

describe('reaching the server', () => {
  test('a refused connection names host and port', async () => {
    const dead = await holdDeadPort();
    const error = await failure({ port: dead.port });
    expect(error.code).toBe('pg_unreachable');
    expect(error.message).toContain(`127.0.0.1:${dead.port}`);
    await dead.release();
  });

  test('an unknown host name is pg_unreachable', async () => {
    const error = await failure({ host: 'no-such-host.invalid' });
    expect(error.code).toBe('pg_unreachable');
    expect(error.message).toContain('no-such-host.invalid');
  });

  test('a missing unix socket is pg_unreachable', async () => {
    expect((await failure({ host: '/no/such/directory' })).code).toBe('pg_unreachable');
  });

  test.each(['disable', 'prefer'] as const)('a silent server ends in a timeout (ssl: %s)', async (ssl) => {
    const silent = createServer((socket) => socket.on('error', () => {}));
    const port = await listen(silent, 0);
    const error = await failure({ port, ssl, connectTimeoutMs: 80 });
    expect(error.code).toBe('pg_unreachable');
    expect(error.message).toContain('80 ms');
    silent.close();
  });

  test.each(['disable', 'prefer'] as const)('a server that is no Postgres is told from one (ssl: %s)', async (ssl) => {
    const web = createServer((socket) => {
      socket.on('error', () => {});
      socket.on('data', () => socket.end('HTTP/1.1 400 Bad Request\r\n\r\n'));
    });
    const port = await listen(web, 0);
    const error = await failure({ port, ssl });
    expect(error.code).toBe('pg_protocol');
    expect(error.hint).toContain('Postgres server');
    web.close();
  });

  test('bytes sent along with the answer to the TLS request are refused as injected', async () => {
    const injecting = createServer((socket) => {
      socket.on('error', () => {});
      socket.once('data', () => socket.write('Sinjected'));
    });
    const port = await listen(injecting, 0);
    expect((await failure({ port, ssl: 'require' })).code).toBe('pg_protocol');
    injecting.close();
  });

  const outside = Object.values(networkInterfaces())
    .flat()
    .find((address) => address?.family === 'IPv4' && !address.internal)?.address;

  test.skipIf(outside === undefined)('a password is not sent in clear over a network', async () => {
    let sent = '';
    const asking = createServer((socket) => {
      socket.on('error', () => {});
      socket.once('data', () => socket.write(Buffer.from([0x52, 0, 0, 0, 8, 0, 0, 0, 3])));
      socket.on('data', (bytes) => {
        sent += bytes.toString('latin1');
      });
    });
    asking.listen(0, outside);
    await once(asking, 'listening');
    const error = await failure({ host: outside!, port: (asking.address() as AddressInfo).port, password: 'secret' });
    expect(error.code).toBe('pg_auth_unsupported');
    expect(sent).not.toContain('secret');
    asking.close();
  });

  test('an abort ends the attempt with its reason', async () => {
    const silent = createServer((socket) => socket.on('error', () => {}));
    const port = await listen(silent, 0);
    const abort = new AbortController();
    const attempt = PgConnection.connect({ ...config, port }, abort.signal);
    const reason = new Error('enough');
    abort.abort(reason);
    await expect(attempt).rejects.toBe(reason);
    await expect(PgConnection.connect(config, abort.signal)).rejects.toBe(reason);
    silent.close();
  });
});

describe('TLS', () => {
  test('a server without TLS is pg_tls_refused, unless TLS is only preferred', async () => {
    for (const ssl of ['require', 'verify-ca', 'verify-full'] as const) {
      expect((await failure({ ssl })).code).toBe('pg_tls_refused');
    }
    expect(await whoAmI({ ssl: 'prefer' })).toBe('postgres');
  });

  test('a server with TLS is verified as asked', async () => {
    await setTls(true);
    const authority = certificates.authority.pem;
    const cases: readonly (readonly [Partial<ConnectionConfig>, string])[] = [
      [{ ssl: 'disable' }, 'plain'],
      [{ ssl: 'prefer' }, 'tls'],
      [{ ssl: 'require' }, 'tls'],
      [{ ssl: 'require', sslRootCert: authority }, 'tls'],
      [{ ssl: 'require', sslRootCert: stranger.authority.pem }, 'pg_tls_unverified'],
      [{ ssl: 'verify-ca', sslRootCert: authority }, 'tls'],
      [{ ssl: 'verify-ca' }, 'pg_tls_unverified'],
      [{ ssl: 'verify-full', host: 'localhost', sslRootCert: authority }, 'tls'],
      [{ ssl: 'verify-full', host: 'localhost', sslRootCert: stranger.authority.pem }, 'pg_tls_unverified'],
      [{ ssl: 'verify-full', host: '127.0.0.1', sslRootCert: authority }, 'pg_tls_unverified'],
      [{ ssl: 'verify-full', host: 'localhost', sslRootCert: 'no certificate' }, 'pg_tls_unverified'],
    ];
    const outcomes: unknown[] = [];
    for (const [changes] of cases) {
      const outcome = await PgConnection.connect({ ...config, ...changes }).then(
        async (connection) => {
          const { rows } = await connection.query('SELECT ssl FROM pg_stat_ssl WHERE pid = pg_backend_pid()');
          await connection.close();
          expect(connection.secure).toBe(rows[0]![0] === 't');
          return connection.secure ? 'tls' : 'plain';
        },
        (error: MillraceError) => error.code,
      );
      outcomes.push([changes.ssl, outcome]);
    }
    expect(outcomes).toEqual(cases.map(([changes, outcome]) => [changes.ssl, outcome]));
  });

  test('over TLS, SCRAM is bound to the channel and big results come through', async () => {
    const connection = await PgConnection.connect({ ...config, ssl: 'require', user: 'tls_user', password: 'tls' });
    const { rows } = await connection.query(`SELECT repeat('x', 3000000), 'end'`);
    expect([rows[0]![0]!.length, rows[0]![1]]).toEqual([3_000_000, 'end']);
    await connection.close();
    expect((await failure({ ssl: 'require', user: 'tls_user', password: 'wrong' })).code).toBe('pg_auth_failed');
    expect((await failure({ ssl: 'disable', user: 'tls_user', password: 'tls' })).code).toBe('pg_auth_failed');
  });
});

describe('queries', () => {
  let connection: PgConnection;

  beforeAll(async () => {
    connection = await PgConnection.connect(config);
  });

  afterAll(async () => {
    await connection.close();
  });

  test('of several statements the last that returns rows is returned', async () => {
    const result = await connection.query(
      `SELECT 1 AS a; SELECT 2 AS b, NULL AS c UNION ALL SELECT 3, 'ä'; SET work_mem = '5MB'`,
    );
    expect(result.columns.map((column) => column.name)).toEqual(['b', 'c']);
    expect(result.rows).toEqual([
      ['2', null],
      ['3', 'ä'],
    ]);
    expect((await connection.query('')).rows).toEqual([]);
  });

  test('the session prints values in one form, whatever the defaults of the role', async () => {
    const admin = await PgConnection.connect(config);
    await admin.query(`ALTER ROLE trusted_user SET TimeZone = 'Asia/Tokyo'; ALTER ROLE trusted_user SET DateStyle = 'German';
      ALTER ROLE trusted_user SET IntervalStyle = 'iso_8601'; ALTER ROLE trusted_user SET bytea_output = 'escape';
      ALTER ROLE trusted_user SET extra_float_digits = -10; ALTER ROLE trusted_user SET client_encoding = 'LATIN1'`);
    await admin.close();
    for (const replication of [false, true]) {
      const session = await PgConnection.connect({
        ...config,
        user: replication ? 'postgres' : 'trusted_user',
        replication,
      });
      const { rows } = await session.query(
        `SELECT '2024-01-02 03:04:05+00'::timestamptz, '1 day 1 hour'::interval, '\\x41'::bytea, 0.1::float8 + 0.2::float8, 'ä'`,
      );
      expect(rows).toEqual([['2024-01-02 03:04:05+00', '1 day 01:00:00', '\\x41', '0.30000000000000004', 'ä']]);
      await session.close();
    }
  });

  test('an error carries its SQLSTATE and leaves the session usable', async () => {
    const error = await connection.query('SELECT * FROM missing').catch((reason: unknown) => reason);
    expect(error).toBeInstanceOf(PgServerError);
    expect([(error as PgServerError).code, (error as PgServerError).sqlState]).toEqual(['pg_table_missing', '42P01']);
    expect((await connection.query('SELECT 1')).rows).toEqual([['1']]);
  });

  test('an error that quotes a value does not pass it on (I11)', async () => {
    const error = await connection.query(`SELECT 'hunter2'::int`).catch((reason: unknown) => reason as PgServerError);
    expect((error as PgServerError).sqlState).toBe('22P02');
    expect((error as PgServerError).message).not.toContain('hunter2');
  });

  test('queries sent at once run one after the other', async () => {
    const all = await Promise.all([1, 2, 3].map((i) => connection.query(`SELECT pg_sleep(0.01), ${i}`)));
    expect(all.map((result) => result.rows[0]![1])).toEqual(['1', '2', '3']);
  });

  test('rows are handed out as they came', async () => {
    let sum = 0;
    const result = await connection.queryRows(
      'SELECT i, NULL FROM generate_series(1, 50000) AS i',
      (bytes, start, end) => {
        expect(bytes.readUInt16BE(start)).toBe(2);
        const size = bytes.readInt32BE(start + 2);
        sum += Number(bytes.toString('latin1', start + 6, start + 6 + size));
        expect(bytes.readInt32BE(start + 6 + size)).toBe(-1);
        expect(start + 10 + size).toBe(end);
      },
    );
    expect([sum, result.rowCount, result.columns.length]).toEqual([1_250_025_000, 50_000, 2]);
  });

  test('quoting protects names and texts', async () => {
    const nasty = `a"b'c\\d; DROP TABLE x; --ä`;
    const { columns, rows } = await connection.query(`SELECT ${quoteLiteral(nasty)} AS ${quoteIdentifier(nasty)}`);
    expect([columns[0]!.name, rows[0]![0]]).toEqual([nasty, nasty]);
  });

  test('COPY, which nobody feeds, ends in an error and not in a hang', async () => {
    await connection.query('CREATE TEMP TABLE copied (a int)');
    await expect(connection.query('COPY copied FROM STDIN')).rejects.toThrow(MillraceError);
    expect((await connection.query('COPY (SELECT 1) TO STDOUT; SELECT 2')).rows).toEqual([['2']]);
  });

  test('the version is a number to compare', () => {
    expect(connection.serverVersion).toBeGreaterThanOrEqual(130_000);
    expect(connection.serverVersion).toBe(
      Number(postgres.server.version.split('.')[0]) * 10_000 + Number(postgres.server.version.split('.')[1]),
    );
  });
});

describe('the end of a connection', () => {
  test('closed resolves to null after close()', async () => {
    const connection = await PgConnection.connect(config);
    await connection.close();
    expect(await connection.closed).toBeNull();
    await expect(connection.query('SELECT 1')).rejects.toMatchObject({ code: 'pg_connection_lost' });
  });

  test('a query in flight rejects with pg_connection_lost when the backend is terminated', async () => {
    const connection = await PgConnection.connect(config);
    const admin = await PgConnection.connect(config);
    const inFlight = connection.query('SELECT pg_sleep(60)').catch((reason: unknown) => reason);
    await admin.query(`SELECT pg_terminate_backend(${connection.processId})`);
    expect(await inFlight).toMatchObject({ code: 'pg_connection_lost', sqlState: '57P01' });
    expect(await connection.closed).toMatchObject({ code: 'pg_connection_lost' });
    await admin.close();
  });

  test('a query in flight rejects with pg_connection_lost when the network breaks', async () => {
    const proxy = await startProxy({ port: config.port });
    const connection = await PgConnection.connect({ ...config, port: proxy.port });
    const inFlight = connection.query('SELECT pg_sleep(60)').catch((reason: unknown) => reason);
    await proxy.refuse();
    expect(await inFlight).toMatchObject({ code: 'pg_connection_lost' });
    await proxy.close();
  });

  test('a query can be cancelled', async () => {
    const connection = await PgConnection.connect(config);
    const watcher = await PgConnection.connect(config);
    const inFlight = connection.query('SELECT pg_sleep(60)').catch((reason: unknown) => reason);
    // One that comes before its query is for nothing.
    const sleeping = `SELECT FROM pg_stat_activity WHERE pid = ${connection.processId} AND wait_event = 'PgSleep'`;
    while ((await watcher.query(sleeping)).rows.length === 0);
    await watcher.close();
    await connection.cancel();
    expect(await inFlight).toMatchObject({ sqlState: '57014' });
    expect((await connection.query('SELECT 1')).rows).toEqual([['1']]);
    await connection.close();
  });
});
