/** Random transactions of several sessions at once, with savepoints to any depth, and what a log of them has to hold. */
import type { TestDatabase } from '@millrace/testkit/postgres';
import type { Random } from '@millrace/testkit/random';
import pg from 'pg';

interface State {
  /** Values of this session's rows in `t`, by id. */
  readonly rows: Map<number, string>;
  /** Columns of this session's own table behind the key. */
  readonly columns: string[];
  ownRows: number;
}

interface Frame {
  readonly savepoint: string;
  readonly state: State;
  readonly changes: string[];
}

class Session {
  readonly client: pg.Client;
  readonly number: number;
  state: State = { rows: new Map(), columns: ['v'], ownRows: 0 };
  /** Of the transaction that is open: one per savepoint, the transaction itself first. */
  frames: Frame[] = [];

  constructor(client: pg.Client, number: number) {
    this.client = client;
    this.number = number;
  }
}

const copy = ({ rows, columns, ownRows }: State): State => ({ rows: new Map(rows), columns: [...columns], ownRows });

export interface TransactionTrees {
  /** What the log has to show: the changes of each transaction, in commit order. */
  readonly expected: string[][];
  /** So many random statements; at the end no transaction is open. */
  run(steps: number): Promise<void>;
  close(): Promise<void>;
}

export interface TreeOptions {
  readonly sessions: number;
  /** Transactional logical messages as well. */
  readonly messages: boolean;
  /** Waits until Postgres has sent what there is: before a rollback, so that there is something to take back. */
  readonly settle: () => Promise<void>;
  /** Called now and then. */
  readonly disturb: () => Promise<void>;
}

export async function transactionTrees(
  db: TestDatabase,
  random: Random,
  options: TreeOptions,
): Promise<TransactionTrees> {
  const expected: string[][] = [];
  const sessions: Session[] = [];
  let next = 1;
  await db.sql('CREATE TABLE IF NOT EXISTS t (id int PRIMARY KEY, v text)');
  for (let number = 0; number < options.sessions; number++) {
    const client = new pg.Client({ ...db.config });
    client.on('error', () => {});
    await client.connect();
    await client.query(`CREATE TABLE own_${number} (id int PRIMARY KEY, v int); CREATE TABLE by_${number} (id int)`);
    sessions.push(new Session(client, number));
  }

  const value = () => `${next++}-${'0123456789'.repeat(random.integer(180))}`;
  const key = (session: Session) => next++ * 10 + session.number;

  async function change(session: Session): Promise<void> {
    const { client, state, frames, number } = session;
    const { changes } = frames.at(-1)!;
    const existing = [...state.rows.keys()];
    const own = `own_${number}`;
    const choice = random.integer(20);
    if (choice < 7 || existing.length === 0) {
      const [id, v] = [key(session), value()];
      await client.query('INSERT INTO t VALUES ($1, $2)', [id, v]);
      state.rows.set(id, v);
      changes.push(`insert t ${JSON.stringify({ id: String(id), v })}`);
    } else if (choice < 10) {
      const [id, v] = [random.pick(existing), value()];
      await client.query('UPDATE t SET v = $2 WHERE id = $1', [id, v]);
      state.rows.set(id, v);
      changes.push(`update t ${JSON.stringify({ id: String(id), v })}`);
    } else if (choice < 12) {
      const [id, fresh] = [random.pick(existing), key(session)];
      const v = state.rows.get(id)!;
      await client.query('UPDATE t SET id = $2 WHERE id = $1', [id, fresh]);
      state.rows.delete(id);
      state.rows.set(fresh, v);
      const was = JSON.stringify({ id: String(id), v: null });
      changes.push(`update t ${JSON.stringify({ id: String(fresh), v })} was ${was}`);
    } else if (choice < 14) {
      const id = random.pick(existing);
      await client.query('DELETE FROM t WHERE id = $1', [id]);
      state.rows.delete(id);
      changes.push(`delete t was ${JSON.stringify({ id: String(id), v: null })}`);
    } else if (choice < 17) {
      const id = next++;
      const values = state.columns.map(() => String(next++));
      await client.query(`INSERT INTO ${own} VALUES (${[id, ...values].join(', ')})`);
      const entries = state.columns.map((name, i): [string, string] => [name, values[i]!]);
      changes.push(`insert ${own} ${JSON.stringify(Object.fromEntries([['id', String(id)], ...entries]))}`);
    } else if (choice === 17) {
      const name = `c${next++}`;
      await client.query(`ALTER TABLE ${own} ADD COLUMN ${name} int`);
      state.columns.push(name);
    } else if (choice === 18) {
      if (state.columns.length === 0) return;
      const [name] = state.columns.splice(random.integer(state.columns.length), 1);
      await client.query(`ALTER TABLE ${own} DROP COLUMN ${name}`);
    } else {
      await client.query(`TRUNCATE ${own}, by_${number}`);
      changes.push(`truncate ${own}`, `truncate by_${number}`);
    }
  }

  async function end(session: Session, how: 'COMMIT' | 'ROLLBACK'): Promise<void> {
    if (how === 'ROLLBACK' && random.chance(0.7)) await options.settle();
    await session.client.query(how);
    const changes = session.frames.flatMap((frame) => frame.changes);
    if (how === 'ROLLBACK') session.state = session.frames[0]!.state;
    else if (changes.length > 0) expected.push(changes);
    session.frames = [];
  }

  async function step(session: Session): Promise<void> {
    const { client, frames } = session;
    if (frames.length === 0) {
      await client.query('BEGIN');
      frames.push({ savepoint: '', state: copy(session.state), changes: [] });
      return;
    }
    const choice = random.integer(100);
    if (choice < 10) {
      const savepoint = `s${next++}`;
      await client.query(`SAVEPOINT ${savepoint}`);
      frames.push({ savepoint, state: copy(session.state), changes: [] });
    } else if (choice < 16 && frames.length > 1) {
      const to = 1 + random.integer(frames.length - 1);
      if (random.chance(0.7)) await options.settle();
      await client.query(`ROLLBACK TO ${frames[to]!.savepoint}`);
      session.state = copy(frames[to]!.state);
      frames.length = to + 1;
      frames[to]!.changes.length = 0;
    } else if (choice < 20 && frames.length > 1) {
      const from = 1 + random.integer(frames.length - 1);
      await client.query(`RELEASE ${frames[from]!.savepoint}`);
      for (const frame of frames.splice(from)) frames[from - 1]!.changes.push(...frame.changes);
    } else if (choice < 23) await end(session, random.chance(0.25) ? 'ROLLBACK' : 'COMMIT');
    else if (choice < 27 && options.messages) {
      const text = value();
      await client.query(`SELECT pg_logical_emit_message(true, 'outbox', $1)`, [text]);
      frames.at(-1)!.changes.push(`message outbox ${text}`);
    } else if (choice < 30) {
      const text = value();
      await client.query(`SELECT pg_logical_emit_message(false, 'loose', $1)`, [text]);
      expected.push([`message loose ${text}`]);
    } else await change(session);
  }

  return {
    expected,
    async run(steps) {
      for (let i = 0; i < steps; i++) {
        await step(random.pick(sessions));
        if (random.chance(0.01)) await options.disturb();
      }
      for (const session of sessions) if (session.frames.length > 0) await end(session, 'COMMIT');
      // Loose messages are sent once something behind them is flushed.
      await sessions[0]!.client.query('BEGIN');
      await sessions[0]!.client.query('INSERT INTO t VALUES ($1, $2)', [key(sessions[0]!), 'end']);
      const { rows } = await sessions[0]!.client.query('SELECT max(id) AS id FROM t WHERE v = $1', ['end']);
      sessions[0]!.frames = [{ savepoint: '', state: sessions[0]!.state, changes: [] }];
      sessions[0]!.frames[0]!.changes.push(`insert t ${JSON.stringify({ id: String(rows[0].id), v: 'end' })}`);
      await end(sessions[0]!, 'COMMIT');
    },
    async close() {
      for (const { client } of sessions) await client.end();
    },
  };
}
