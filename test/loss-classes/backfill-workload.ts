/** Writers beside a backfill: rows that change, move on disk, leave and come again, in transactions of all kinds. */
import type { TestDatabase } from '@millrace/testkit/postgres';
import { type Random, seededRandom } from '@millrace/testkit/random';
import { expect } from 'vitest';
import { replay } from '../end-to-end/backfills.ts';
import type { Message } from '../end-to-end/millrace.ts';

export const WORKLOAD_TABLE = `CREATE SEQUENCE versions;
  CREATE TABLE t (id int PRIMARY KEY, version bigint NOT NULL DEFAULT nextval('versions'), pad text)`;

export interface Workload {
  /** Transactions that were committed. */
  readonly commits: number;
  /** Resolves when the writers have ended. */
  stop(): Promise<void>;
}

export function startWorkload(db: TestDatabase, seed: number, rows: number, writers = 3): Workload {
  let writing = true;
  let commits = 0;
  const write = async (random: Random) => {
    while (writing) {
      await db.sql(transaction(random, rows));
      commits++;
    }
  };
  const running = Array.from({ length: writers }, (_, i) => write(seededRandom(seed * 31 + i)));
  return {
    get commits() {
      return commits;
    },
    async stop() {
      writing = false;
      await Promise.all(running);
    },
  };
}

/** Keys in rising order, so that no two writers wait for each other in a circle. */
function transaction(random: Random, rows: number): string {
  const keys = Array.from({ length: 1 + random.integer(4) }, () => 1 + random.integer(rows)).sort((a, b) => a - b);
  const statements = keys.map((key) => statement(random, key, rows));
  const pause = random.chance(0.2) ? `SELECT pg_sleep(${(random.next() * 0.02).toFixed(3)});` : '';
  if (random.chance(0.1)) return `BEGIN; ${statements.join(' ')} ${pause} ROLLBACK`;
  if (random.chance(0.2)) {
    return `BEGIN; SAVEPOINT a; ${statements[0]} ROLLBACK TO a; ${statements.slice(1).join(' ')} SAVEPOINT b; ${statements[0]} RELEASE b; ${pause} COMMIT`;
  }
  return `BEGIN; ${statements.join(' ')} ${pause} COMMIT`;
}

function statement(random: Random, key: number, rows: number): string {
  const dice = random.integer(10);
  // A longer row does not fit where it was: it moves to another page.
  const pad = `repeat('x', ${random.integer(600)})`;
  if (dice < 2) return `DELETE FROM t WHERE id = ${key};`;
  // The other key is one that nobody else writes to.
  if (dice < 3)
    return `UPDATE t SET id = id + ${rows}, version = DEFAULT WHERE id = ${key} AND NOT EXISTS (SELECT FROM t WHERE id = ${key + rows});`;
  return `INSERT INTO t (id, pad) VALUES (${key}, ${pad}) ON CONFLICT (id) DO UPDATE SET version = DEFAULT, pad = EXCLUDED.pad;`;
}

/** The messages make the table as it is, and no row went back. Returns how many rows were read. */
export async function expectSame(db: TestDatabase, messages: readonly Message[]): Promise<number> {
  const { rows, faults } = replay(messages, (record) => String(record['id']));
  expect(faults).toEqual([]);
  const actual = await db.sql<{ id: number; version: string }>('SELECT id, version FROM t WHERE id > 0');
  const have = [...rows.values()].filter(({ id }) => Number(id) > 0).map(({ id, version }) => `${id}:${version}`);
  expect(have.sort()).toEqual(actual.map(({ id, version }) => `${id}:${version}`).sort());
  return messages.filter(({ action }) => action === 'read').length;
}
