import { mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { type EmbeddedPostgres, startPostgres } from '@millrace/embedded-postgres/launcher';
import { PgConnection } from '@millrace/postgres/connection';
import { afterAll, beforeAll, expect, test } from 'vitest';
import { launch, run } from './cli-process.ts';

let dir: string;
let postgres: EmbeddedPostgres;
let connection: PgConnection;

beforeAll(async () => {
  dir = mkdtempSync(join(tmpdir(), 'millrace-start-test-'));
  postgres = await startPostgres({ dir: join(dir, 'postgres') });
  const { host, port, user, password, database } = postgres;
  connection = await PgConnection.connect({ host, port, user, password, database, ssl: 'disable' });
  await connection.query('CREATE TABLE orders (id int PRIMARY KEY, state text)');
});

afterAll(async () => {
  await connection?.close();
  await postgres?.remove();
  rmSync(dir, { recursive: true, force: true });
});

function configFile(name: string, change: (text: string) => string = (text) => text): string {
  const file = join(dir, name);
  writeFileSync(
    file,
    change(`
databases:
  - name: shop
    hostname: 127.0.0.1
    port: \${TEST_PG_PORT}
    database: postgres
    password: \${TEST_PG_PASSWORD}
    slot: { name: start_test, create_if_not_exists: true }
    publication: { name: start_test, create_if_not_exists: true }
sinks:
  - name: orders
    database: shop
    table: orders
    actions: [insert, update]
    initial_backfill: true
    destination: { type: s2, basin: shop-streams, stream: orders }
`),
  );
  return file;
}

function env(): Record<string, string> {
  return { TEST_PG_PORT: String(postgres.port), TEST_PG_PASSWORD: postgres.password };
}

interface Summary {
  readonly action: string;
  readonly id: number;
}

function summaries(stdout: string): Summary[] {
  return stdout
    .split('\n')
    .filter((line) => line !== '')
    .map((line) => JSON.parse(line))
    .map(({ action, record }) => ({ action, id: record.id }));
}

test('start takes a config file, backfills and streams into the store of the same process, and goes on after a restart', async () => {
  await connection.query(`INSERT INTO orders VALUES (1, 'new'), (2, 'new')`);
  const data = join(dir, 'data');
  const args = ['start', '--config', configFile('good.yaml'), '--data', data, '--port', '0'];
  const first = launch(args, env());
  let token: string;
  try {
    const ready = await first.stdoutUntil((text) => text.includes('\n'));
    expect(ready).toMatch(/^millrace listening on http:\/\/127\.0\.0\.1:\d+ \(data in .+\)\n$/);
    token = /S2_ACCESS_TOKEN=(\S+)/.exec(await first.stderrUntil((text) => text.includes('S2_ACCESS_TOKEN=')))![1]!;
    const client = { MILLRACE_ENDPOINT: /http:\S+/.exec(ready)![0], S2_ACCESS_TOKEN: token };
    await run(['create-basin', 'shop-streams', '--create-stream-on-append'], client);
    await first.stderrUntil((text) => text.includes('complete'));
    await connection.query(`UPDATE orders SET state = 'paid' WHERE id = 1; DELETE FROM orders WHERE id = 2`);
    await connection.query(`INSERT INTO orders VALUES (3, 'new')`);
    const tail = launch(['read', 's2://shop-streams/orders'], client);
    await tail.stdoutUntil((text) => text.split('\n').length > 4);
    tail.child.kill('SIGINT');
    expect(summaries((await tail.finished).stdout)).toEqual([
      { action: 'read', id: 1 },
      { action: 'read', id: 2 },
      { action: 'update', id: 1 },
      { action: 'insert', id: 3 },
    ]);
    first.child.kill('SIGTERM');
    expect((await first.finished).code).toBe(0);
  } finally {
    first.child.kill('SIGKILL');
    await first.finished;
  }

  await connection.query(`INSERT INTO orders VALUES (4, 'new')`);
  const second = launch(args, env());
  try {
    const url = /http:\S+/.exec(await second.stdoutUntil((text) => text.includes('\n')))![0];
    const tail = launch([
      'read',
      's2://shop-streams/orders',
      '-s',
      '4',
      '--clamp',
      '--endpoint',
      url,
      '--token',
      token,
    ]);
    await tail.stdoutUntil((text) => text.includes('\n'));
    tail.child.kill('SIGINT');
    expect(summaries((await tail.finished).stdout)).toEqual([{ action: 'insert', id: 4 }]);
  } finally {
    second.child.kill('SIGKILL');
    await second.finished;
  }
}, 60_000);

test('a config file with mistakes ends with all of them, and no secret', async () => {
  const file = configFile('bad.yaml', (text) =>
    text.replace('table:', 'tabel:').replace('database: shop', 'database: shpo'),
  );
  const { stderr, stdout, code } = await run(['start', '--config', file, '--data', join(dir, 'unused')], env());
  expect(stderr).toBe(
    `The configuration file is not valid. \n` +
      `${file}:12: sinks[0].database: is not the name of one of the databases (did you mean "shop"?)\n` +
      `${file}:13: sinks[0].tabel: unknown key (did you mean "table"?)\n\n(config_invalid)\n`,
  );
  expect(stdout).toBe('');
  expect(code).toBe(1);
});

test('a wrong password ends with its own code and does not show the password', async () => {
  const args = ['start', '--config', configFile('password.yaml'), '--data', join(dir, 'denied'), '--port', '0'];
  const { stderr, code } = await run(args, { ...env(), TEST_PG_PASSWORD: 'wr0ng-pa55' });
  expect(stderr).toContain('(pg_auth_failed)');
  expect(stderr).not.toContain('wr0ng-pa55');
  // The data directory is made: there is no other time to see its root token.
  expect(stderr).toContain('S2_ACCESS_TOKEN=mr_');
  expect(code).toBe(1);
});
