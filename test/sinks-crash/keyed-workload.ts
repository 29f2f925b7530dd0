/**
 * Writers of a table with many keys, each of which is one writer's alone: what was committed to a key, and in what order,
 * is known without asking anybody. Every change can be told from every other by its key, its version and its action.
 */
import { setTimeout as delay } from 'node:timers/promises';
import { type Random, seededRandom } from '@millrace/testkit/random';
import pg from 'pg';

export const TABLE = 'crash_items';

export interface KeyedChange {
  readonly id: number;
  /** Of the row after the change; of the deleted row. Grows by one with each insert and update of the key. */
  readonly v: number;
  readonly action: string;
}

/** By key, its changes in the order in which they were committed. */
export type History = ReadonlyMap<number, readonly KeyedChange[]>;

export interface KeyedWorkload {
  readonly changes: number;
  /** Ends every writer after its present transaction. */
  stop(): Promise<History>;
}

export interface KeyedWorkloadOptions {
  readonly config: pg.ClientConfig;
  readonly seed: number;
  readonly writers: number;
  readonly keys: number;
  /** Rest of a writer between transactions. */
  readonly pauseMs: number;
}

const CHANGES_MAX = 6;
const ROLLBACK_SHARE = 0.1;
const DELETE_SHARE = 0.15;

/** The whole old row, so that a delete says which version it deleted. */
export const CREATE_TABLE = `CREATE TABLE ${TABLE} (id int PRIMARY KEY, v int NOT NULL, note text); ALTER TABLE ${TABLE} REPLICA IDENTITY FULL`;

interface Key {
  readonly id: number;
  /** Version of the row; null: there is none. */
  held: number | null;
  /** The last version that was given out, also to a transaction that was rolled back. */
  given: number;
}

export function startKeyedWorkload(options: KeyedWorkloadOptions): KeyedWorkload {
  const history = new Map<number, KeyedChange[]>();
  const stopping = new AbortController();
  let changes = 0;
  const writers = Array.from({ length: options.writers }, async (_, index) => {
    const random = seededRandom(options.seed * 1_000_003 + index);
    const keys: Key[] = [];
    for (let id = 1 + index; id <= options.keys; id += options.writers) keys.push({ id, held: null, given: 0 });
    const client = new pg.Client(options.config);
    // Reported by the query that meets it.
    client.on('error', () => {});
    await client.connect();
    try {
      while (!stopping.signal.aborted) {
        const before = keys.map(({ held }) => held);
        const made: KeyedChange[] = [];
        const statements: string[] = [];
        for (let n = 1 + random.integer(CHANGES_MAX); n > 0; n--) {
          const [statement, change] = changeKey(random.pick(keys), random);
          statements.push(statement);
          made.push(change);
        }
        const undone = random.chance(ROLLBACK_SHARE);
        await client.query(`BEGIN; ${statements.join('; ')}; ${undone ? 'ROLLBACK' : 'COMMIT'}`);
        if (undone) for (const [i, key] of keys.entries()) key.held = before[i] ?? null;
        else {
          for (const change of made) {
            const of = history.get(change.id) ?? [];
            history.set(change.id, of);
            of.push(change);
          }
          changes += made.length;
        }
        await delay(options.pauseMs * 2 * random.next());
      }
    } finally {
      await client.end();
    }
  });
  const ended = Promise.allSettled(writers);
  return {
    get changes() {
      return changes;
    },
    async stop() {
      stopping.abort();
      for (const result of await ended) if (result.status === 'rejected') throw result.reason;
      return history;
    },
  };
}

function changeKey(key: Key, random: Random): readonly [statement: string, change: KeyedChange] {
  const { id, held } = key;
  if (held !== null && random.chance(DELETE_SHARE)) {
    key.held = null;
    return [`DELETE FROM ${TABLE} WHERE id = ${id}`, { id, v: held, action: 'delete' }];
  }
  const v = ++key.given;
  key.held = v;
  if (held !== null) return [`UPDATE ${TABLE} SET v = ${v} WHERE id = ${id}`, { id, v, action: 'update' }];
  return [`INSERT INTO ${TABLE} VALUES (${id}, ${v}, 'about ${id}')`, { id, v, action: 'insert' }];
}
