/** What a person meets who gets something wrong: a clear coded error, what to do next, exit code 1, nothing lost. */
import { closeSync, openSync, readdirSync, readFileSync, rmSync, writeFileSync, writeSync } from 'node:fs';
import { createServer } from 'node:net';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { openLocalStore } from '@millrace/stream-store/local-store';
import { DEFAULT_BASIN_CONFIG } from '@millrace/stream-store/model';
import { holdDeadPort, listen } from '@millrace/testkit/dead-port';
import {
  createDatabase,
  type OwnPostgres,
  startOwnPostgres,
  type TestDatabase,
  testDirectory,
} from '@millrace/testkit/postgres';
import { processHarness } from '@millrace/testkit/process-harness';
import { afterAll, afterEach, beforeEach, describe, expect, test } from 'vitest';
import { parse, stringify } from 'yaml';
import { configText, type MillraceOptions } from './millrace.ts';

const CLI = fileURLToPath(new URL('../../packages/cli/bin/millrace.js', import.meta.url));

let db: TestDatabase;
let dir: string;
beforeEach(async () => {
  db = await createDatabase();
  dir = testDirectory('bad-input');
});
afterEach(async () => {
  await db.drop();
  rmSync(dir, { recursive: true, force: true });
});

interface Outcome {
  readonly code: number | null;
  readonly stderr: string;
}

/** Runs the CLI to its end. */
async function run(args: readonly string[], env: Record<string, string> = {}): Promise<Outcome> {
  const child = processHarness({ args: [CLI, ...args], env });
  child.start();
  const timer = setTimeout(() => void child.kill('SIGKILL'), 50_000);
  const { code } = await child.exited;
  clearTimeout(timer);
  const stderr = child.lines.filter((line) => line.stream === 'stderr').map((line) => line.text);
  return { code, stderr: stderr.join('\n') };
}

async function start(config: string, extra: readonly string[] = []): Promise<Outcome> {
  const file = join(dir, 'millrace.yaml');
  writeFileSync(file, config);
  return await run(['start', '--config', file, '--data', join(dir, 'data'), '--port', '0', ...extra]);
}

/** The configuration for the test's database with its database block changed. */
function withDatabase(change: Record<string, unknown>, options: MillraceOptions = {}): string {
  const config = parse(configText(db, options)) as { databases: Record<string, unknown>[] };
  const { hostname, port, username, password, database } = {
    hostname: db.config.host,
    port: db.config.port,
    username: db.config.user,
    password: db.config.password,
    database: db.config.database,
  };
  const { url: _, ...rest } = config.databases[0]!;
  config.databases[0] = {
    ...rest,
    hostname,
    port,
    username,
    password,
    database,
    await_database: { timeout_ms: 500 },
    ...change,
  };
  return stringify(config);
}

const said =
  (code: string, ...texts: (string | RegExp)[]) =>
  (outcome: Outcome) => {
    expect(outcome.stderr).toContain(code);
    for (const text of texts) expect(outcome.stderr).toMatch(text);
    expect(outcome.stderr).not.toMatch(/\n\s+at /); // No stack for what a person can mend.
    expect(outcome.code).toBe(1);
  };

describe('the source', () => {
  test('refuses a wrong password', async () => {
    const outcome = await start(withDatabase({ password: 'wrong-secret' }));
    said('pg_auth_failed', /password/i)(outcome);
    expect(outcome.stderr).not.toContain('wrong-secret');
  });

  test('is a database that does not exist', async () => {
    said('pg_database_missing', /nowhere/)(await start(withDatabase({ database: 'nowhere' })));
  });

  test('cannot be reached', async () => {
    const dead = await holdDeadPort();
    said('pg_unreachable', new RegExp(String(dead.port)))(await start(withDatabase({ port: dead.port })));
    await dead.release();
    said(
      'pg_unreachable',
      /no-such-host\.invalid/,
    )(await start(withDatabase({ hostname: 'no-such-host.invalid', ssl: false })));
  });

  test('has a user without the REPLICATION right', async () => {
    const role = `plain_${db.name}`;
    await db.sql(`CREATE ROLE ${role} LOGIN PASSWORD 'p'; CREATE PUBLICATION millrace FOR ALL TABLES`);
    try {
      said(
        'pg_replication_denied',
        /ALTER ROLE .*REPLICATION/,
      )(await start(withDatabase({ username: role, password: 'p' })));
    } finally {
      await db.sql(`DROP ROLE ${role}`);
    }
  });

  test('lacks the publication, and may not make it', async () => {
    const publication = { name: 'absent', create_if_not_exists: false };
    said('pg_publication_missing', /CREATE PUBLICATION "absent"/)(await start(withDatabase({ publication })));
    const role = `replicator_${db.name}`;
    await db.sql(`CREATE ROLE ${role} LOGIN REPLICATION PASSWORD 'p'`);
    try {
      const denied = await start(withDatabase({ username: role, password: 'p' }));
      said('pg_privilege', /CREATE PUBLICATION/)(denied);
    } finally {
      await db.sql(`DROP ROLE ${role}`);
    }
  });

  test('lacks the slot, and is not told to make it', async () => {
    const slot = { name: 'absent', create_if_not_exists: false };
    said(
      'pg_slot_missing',
      /pg_create_logical_replication_slot\('absent', 'pgoutput'\)/,
    )(await start(withDatabase({ slot })));
  });

  test('lacks a table that a sink names', async () => {
    await db.sql(`CREATE TABLE here (id int PRIMARY KEY); CREATE TABLE out_of_it (id int PRIMARY KEY);
      CREATE PUBLICATION partial FOR TABLE here`);
    const publication = { name: 'partial' };
    const named = (table: string) =>
      withDatabase({ publication }, { sinks: [{ source: { include_tables: [table] } }] });
    said('pg_table_missing', /"public"\."gone"/)(await start(named('gone')));
    said(
      'pg_table_unpublished',
      /ALTER PUBLICATION "partial" ADD TABLE "public"\."out_of_it"/,
    )(await start(named('out_of_it')));
  });

  test('wants TLS verified and has a certificate nobody signed, or none', async () => {
    said('pg_tls_refused')(await start(withDatabase({ ssl: true })));
  });
});

describe('a server that is not set up', () => {
  let own: OwnPostgres;
  let mine: TestDatabase;
  afterAll(async () => {
    await own?.remove();
  });

  test('has a wal_level that is not logical', async () => {
    own = await startOwnPostgres({ wal_level: 'replica' });
    mine = await own.createDatabase();
    const { host: hostname, port, user: username, password, database } = mine.config;
    said(
      'pg_wal_level',
      /ALTER SYSTEM SET wal_level = 'logical'/,
    )(await start(withDatabase({ hostname, port, username, password, database })));
  });

  test('has no free slot', async () => {
    await own?.remove();
    own = await startOwnPostgres({ max_replication_slots: '1' });
    mine = await own.createDatabase();
    await mine.sql(`SELECT pg_create_logical_replication_slot('taken', 'pgoutput')`);
    const { host: hostname, port, user: username, password, database } = mine.config;
    said(
      'pg_no_free_slots',
      /max_replication_slots/,
      /pg_drop_replication_slot/,
    )(await start(withDatabase({ hostname, port, username, password, database })));
  });
});

describe('the configuration', () => {
  test('has an unknown key, a wrong value and a missing one: all are named, with line and nearest key', async () => {
    const outcome = await start(
      `databases:\n  - name: shop\n    hostnam: localhost\n    slot: { name: s }\n    publication: { name: p }\nsinks:\n  - name: x\n    database: shop\n    status: sleeping\n    destination: { type: s2, basin: shop-basin, stream: t }\n`,
    );
    said('config_invalid', /millrace\.yaml:3: .*hostnam.*"hostname"/, /millrace\.yaml:9: .*status/)(outcome);
  });

  test('is not YAML, or not there', async () => {
    said('config_invalid', /millrace\.yaml:\d+/)(await start('databases: [\n  name: "x'));
    said(
      'config_unreadable',
      /nothing-here\.yaml/,
    )(await run(['start', '--config', join(dir, 'nothing-here.yaml'), '--data', join(dir, 'data')]));
  });

  test('names a variable that is not set', async () => {
    said('config_invalid', /NO_SUCH_VARIABLE/)(await start(withDatabase({ password: '${NO_SUCH_VARIABLE}' })));
  });
});

describe('this machine', () => {
  test('has another process on the port', async () => {
    const server = createServer();
    const port = await listen(server, 0);
    try {
      said(
        'port_in_use',
        new RegExp(String(port)),
      )(await run(['store', '--data', join(dir, 'data'), '--port', String(port)]));
    } finally {
      server.close();
    }
  });

  test('has another Millrace on the data directory', async () => {
    const data = join(dir, 'data');
    const first = processHarness({ args: [CLI, 'store', '--data', data, '--port', '0'] });
    first.start();
    await first.waitForLine(/listening/);
    said('data_dir_locked')(await run(['store', '--data', data, '--port', '0']));
    await first.kill('SIGKILL');
    // The lock goes with the process, however it ended.
    first.start();
    await first.waitForLine(/listening/);
    expect((await first.kill('SIGTERM')).code).toBe(0);
  });

  test('has garbage in the middle of a segment: it is refused by name, and the end of one is cut off', async () => {
    const data = join(dir, 'data');
    const store = processHarness({ args: [CLI, 'store', '--data', data, '--port', '0'] });
    store.start();
    await store.waitForLine(/listening/);
    await store.kill('SIGKILL');
    const segment = newestSegment(data);
    // A few torn bytes behind the last entry are what a power cut leaves.
    const written = readFileSync(segment);
    appendAt(segment, written.findLastIndex((byte) => byte !== 0) + 1, Buffer.from([1, 2, 3]));
    store.start();
    await store.waitForLine(/listening/);
    await store.kill('SIGKILL');
    const inside = await openLocalStore({ dir: data });
    for (const name of ['first-basin', 'second-basin']) await inside.ensureBasin(name, DEFAULT_BASIN_CONFIG);
    await inside.close();
    appendAt(segment, 80, Buffer.alloc(8, 0xee));
    said('storage_corrupt', /\.log/, /offset|byte/i)(await run(['store', '--data', data, '--port', '0']));
  });

  test('has a file where the data directory should be', async () => {
    writeFileSync(join(dir, 'file'), '');
    said('data_dir_unusable')(await run(['store', '--data', join(dir, 'file', 'data'), '--port', '0']));
  });
});

function newestSegment(data: string): string {
  const found: string[] = [];
  const walk = (path: string) => {
    for (const entry of readdirSync(path, { withFileTypes: true })) {
      const full = join(path, entry.name);
      if (entry.isDirectory()) walk(full);
      else if (entry.name.endsWith('.log') && full.includes('main')) found.push(full);
    }
  };
  walk(data);
  return found.sort().at(-1)!;
}

function appendAt(file: string, at: number, bytes: Buffer): void {
  const fd = openSync(file, 'r+');
  writeSync(fd, bytes, 0, bytes.length, at);
  closeSync(fd);
}
