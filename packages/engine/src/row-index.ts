/**
 * The row index of one source, running: a follower of the change log with a position of its own, fed and kept like a
 * sink (deliver/), filled like one with an initial backfill (backfill/), writing into SQLite (rows/). On only where
 * something needs it. What it knows serves
 *
 * * sinks with fill_unchanged, as LastValues: what a column held before a change;
 * * the repair of a lost slot, which compares the tables with it;
 * * the auditor, and `millrace verify` of a table.
 */
import { rm } from 'node:fs/promises';
import { MillraceError } from '@millrace/core/error';
import type { Lsn } from '@millrace/core/lsn';
import { pause } from '@millrace/core/pause';
import { comparePositions, ORDINAL_END, type Position } from '@millrace/core/position';
import type { MessageBatch } from '@millrace/sinks/message-batch';
import type { StateTable } from '@millrace/stream-store/store';
import { BackfillFeed } from './backfill/backfill-feed.ts';
import { BackfillManager } from './backfill/backfill-manager.ts';
import type { BackfillSource } from './backfill/backfill-source.ts';
import { backfillStore } from './backfill/backfill-store.ts';
import type { BackfillView } from './backfill/backfill-view.ts';
import type { WriteRead } from './backfill/run-options.ts';
import type { CompareWithSource } from './capture/slot-repair.ts';
import type { ChangeLog } from './change-log/change-log.ts';
import { MessageSource } from './decode/message-source.ts';
import type { SchemaHistory } from './decode/schema-history.ts';
import { cursorStore, newCursor } from './deliver/cursor-store.ts';
import { type Delivery, startDelivery } from './deliver/delivery.ts';
import type { Feed, OpenFeed } from './deliver/feed.ts';
import type { LastValues } from './last-values.ts';
import { readPublication } from './rows/published-tables.ts';
import { type DiffedIndex, diffPublication } from './rows/repair-diff.ts';
import { type ReadTable, RowEncoder } from './rows/row-encoder.ts';
import { rowIndexSink } from './rows/row-index-sink.ts';
import { RowLookup } from './rows/row-lookup.ts';
import type { TableSchema } from './table-schema.ts';

type Takes = (schema: string, table: string) => boolean;

export interface RowIndexOptions {
  /** The SQLite file. */
  readonly file: string;
  readonly state: StateTable;
  /** Of the source's state in the table. */
  readonly key: string;
  readonly log: ChangeLog;
  readonly schemas: SchemaHistory;
  readonly backfills: BackfillSource;
  readonly publication: string;
  /** Tables to be indexed. */
  readonly takes: Takes;
  /** Tables whose large values are kept. */
  readonly keepsValues: Takes;
  /** Saved positions of the sinks that ask for values: what is older is forgotten. Empty: nobody asks. */
  readonly askers: () => readonly Position[];
  readonly poke: () => void;
  readonly onNotice?: ((text: string) => void) | undefined;
}

export interface RowIndex extends DiffedIndex {
  /** `oid`: of the table; absent: of the one that had the name when they were listed last. */
  complete(schema: string, name: string, oid?: number): boolean;
  readonly delivery: Delivery;
  readonly lastValues: LastValues;
  /** Where a repair gets its difference from. */
  readonly compare: CompareWithSource;
  /** Resolves when every transaction that committed before `lsn` is in. */
  reach(lsn: Lsn, signal: AbortSignal): Promise<void>;
  /** Tables left out because they have no key, as `schema.table`. */
  readonly keyless: readonly string[];
  /** Every published table was read, or could not be. */
  readonly filled: boolean;
  /** Of the tables that could not be read. */
  readonly failedFills: readonly BackfillView[];
  /** See RowIndexSink. */
  forget(oids: readonly number[]): Promise<void>;
  stop(): Promise<void>;
}

const POLL_MS = 20;
const POKE_EVERY_POLLS = 10;
const COLLECT_INTERVAL_MS = 5_000;
const RELOAD_MS = 1_000;

/** Removes an index that nothing needs any more. */
export async function forgetRowIndex({
  file,
  state,
  key,
}: Pick<RowIndexOptions, 'file' | 'state' | 'key'>): Promise<void> {
  const fills = `${key}/rows/backfills`;
  const names = [`${key}/rows/cursor`, `${key}/audit`, fills, ...[...state.list(`${fills}/`)].map(([name]) => name)];
  for (const name of names) if (state.get(name) !== undefined) await state.delete(name);
  for (const suffix of ['', '-wal', '-shm']) await rm(`${file}${suffix}`, { force: true });
}

export async function startRowIndex(options: RowIndexOptions): Promise<RowIndex> {
  const { file, state, key, log, schemas, publication, takes, keepsValues, askers, poke } = options;
  const lookup = new RowLookup(file, () => {
    sink.damaged();
    openAgain('its file is damaged');
  });
  const cursors = cursorStore(state, `${key}/rows/cursor`);
  const stopping = new AbortController();
  const keyless = new Set<string>();
  /** Until the next start. */
  const keyNotSent = new Set<number>();
  /** Tables that came after the feed was opened, each a reason to open it again once. */
  const added = new Set<string>();
  let published: ReadonlyMap<number, ReadTable> | null = null;
  /** OIDs of the published tables, by name. */
  let roots: ReadonlyMap<string, number> = new Map();
  let reopen: string | null = null;
  let wake = () => {};
  let filled = false;
  /** The feed is open: the file is the one the cursor speaks of, and which tables are complete is known. */
  let open = false;

  // At or before every position somebody will ask about.
  const first = askers().reduce((a, b) => (comparePositions(a, b) <= 0 ? a : b), newCursor(log.durableLsn).position);
  if (cursors.load() === null) await cursors.save({ ...newCursor(0n), position: first }, false);

  const sink = rowIndexSink({
    file,
    start: first,
    end: () => newCursor(log.durableLsn).position,
    async holds(position) {
      try {
        await log.seekAfter(position);
        return true;
      } catch (error) {
        if (error instanceof MillraceError && error.code === 'log_overrun') return false;
        throw error;
      }
    },
  });
  const manager = new BackfillManager({
    sink: 'row index',
    store: backfillStore(state, `${key}/rows/backfills`),
    source: options.backfills,
    initial: true,
    initialId,
    takes,
    takesUpdates: () => true,
  });

  /** Of the first fill of a table: another one when its rows were forgotten, or the name is another table's. */
  function initialId(schema: string, name: string, oid: number | undefined): string {
    return JSON.stringify([sink.incarnation, schema, name, lookup.generation(schema, name), oid]);
  }

  function rootOf(schema: string, name: string): number | undefined {
    return roots.get(JSON.stringify([schema, name]));
  }

  /** Of the tables as they are held now. */
  function failedFills(): BackfillView[] {
    if (!open) return [];
    return manager
      .list()
      .filter(({ id, state, table, oid }) => state === 'failed' && id === initialId(table.schema, table.name, oid));
  }

  function complete(schema: string, name: string, oid = rootOf(schema, name)): boolean {
    return manager.get(initialId(schema, name, oid))?.state === 'completed';
  }

  const openFeed: OpenFeed = async (cursor, signal) => {
    lookup.reopen();
    reopen = null;
    const encoder = new RowEncoder({
      schemas,
      takes,
      keepsValues,
      keyNotSent,
      onKeyless: ({ oid, schema, name }) => {
        const label = `${schema}.${name}`;
        if (keyNotSent.has(oid) && !keyless.has(label)) {
          options.onNotice?.(
            `${label} is left out until the next start: a partition of it has another replica identity, so that its changes come without the key`,
          );
        }
        keyless.add(label);
      },
      onTable: ({ schema, name, oid }, leaf) => {
        const id = initialId(schema, name, leaf ? rootOf(schema, name) : oid);
        const one = `${oid} ${id}`;
        const before = manager.get(id);
        if (published === null || added.has(one) || (before !== null && before.gone !== true)) return;
        added.add(one);
        openAgain('a table was added');
      },
    });
    const changes = await MessageSource.open(log, schemas, encoder, cursor.position, signal);
    published = await readTables(signal);
    if (published === null) {
      // The log can be followed without the source.
      void pause(RELOAD_MS, signal).then(() => openAgain('the source was away'));
      return watched({
        get progress() {
          return changes.progress;
        },
        fill: (batch) => changes.fill(batch),
        changed: (stop) => log.changed(stop),
        close: async () => {},
      });
    }
    const known = new Set([...roots.values(), ...lookup.oids()]);
    await manager.forgetOthers(
      ({ id, table, oid }) => known.has(oid) && id === initialId(table.schema, table.name, oid),
    );
    const { position } = cursor;
    manager.attach({
      marks: cursor.backfills,
      write: readWith(encoder, published),
      partialLsn: position.ordinal >= 0 && position.ordinal < ORDINAL_END ? position.lsn : null,
      inTransaction: () => changes.inTransaction,
      poke,
    });
    encoder.watch = manager;
    open = true;
    // The cause may be gone by now, and nobody else can ask for it.
    for (const { id } of failedFills()) manager.resume(id).catch(() => {});
    return watched(new BackfillFeed(changes, manager, (abort) => log.changed(abort)));
  };

  function openAgain(why: string): void {
    reopen ??= why;
    wake();
  }

  function watched(feed: Feed): Feed {
    return {
      get progress() {
        return feed.progress;
      },
      async fill(batch: MessageBatch) {
        if (reopen !== null) throw new MillraceError('row_index_reset', { detail: `${reopen}.` });
        return await feed.fill(batch);
      },
      changed(signal) {
        if (reopen !== null) return Promise.resolve();
        return Promise.race([feed.changed(signal), new Promise<void>((resolve) => (wake = resolve))]);
      },
      close: () => feed.close(),
    };
  }

  async function readTables(signal: AbortSignal): Promise<ReadonlyMap<number, ReadTable> | null> {
    try {
      const { tables } = await options.backfills.pool.use(signal, (connection) =>
        readPublication(connection, publication),
      );
      roots = new Map(tables.map(({ schema, root }) => [JSON.stringify([schema.schema, schema.name]), root]));
      for (const { key: columns, schema } of tables) {
        if (columns.length === 0 && takes(schema.schema, schema.name)) keyless.add(`${schema.schema}.${schema.name}`);
      }
      return new Map(
        tables.map(({ schema, own }) => [
          schema.oid,
          { schema, leaf: own.schema !== schema.schema || own.name !== schema.name },
        ]),
      );
    } catch (error) {
      if (!(error instanceof MillraceError)) throw error;
      return null;
    }
  }

  /** Tables that came later have the feed opened again; of those that went nobody waits for a fill. */
  function isFilled(): boolean {
    return manager.listed && manager.list().every(({ state }) => state !== 'active');
  }

  const delivery = startDelivery({
    name: 'row index',
    sink,
    paused: false,
    cursors,
    keepsMark: (id) => manager.keepsMark(id),
    openFeed,
    onState: (event) => {
      if (event.kind !== 'retrying') return;
      filled = false;
      open = false;
      if (event.error.code !== 'row_index_reset' && event.attempt === 0) options.onNotice?.(event.error.message);
    },
  });

  const collecting = setInterval(() => {
    const positions = askers();
    if (positions.length === 0) return;
    const slowest = positions.reduce((a, b) => (comparePositions(a, b) <= 0 ? a : b));
    sink.collect(slowest.lsn).catch(() => {}); // The next write finds out.
  }, COLLECT_INTERVAL_MS);
  collecting.unref();

  const givenUp = () =>
    delivery.state.kind === 'stopped' ||
    (delivery.state.kind === 'retrying' &&
      (delivery.state.error.retry === 'operator' || delivery.state.error.retry === 'never'));

  function covers(position: Position): boolean {
    if (givenUp()) return true;
    if (comparePositions(delivery.cursor.position, position) < 0) return false;
    filled ||= isFilled();
    return filled;
  }

  async function until(holds: () => boolean, signal: AbortSignal): Promise<void> {
    // Positions move with writes, idle passes and fills; nothing announces all of them.
    while (!holds() && !signal.aborted) await pause(POLL_MS, signal);
  }

  async function reachPosition(lsn: Lsn, signal: AbortSignal): Promise<void> {
    const target = { lsn, ordinal: ORDINAL_END };
    await until(() => open && (lsn === 0n || comparePositions(delivery.cursor.position, target) >= 0), signal);
    signal.throwIfAborted();
  }

  return {
    delivery,
    lastValues: {
      covers,
      caughtUp: (position, signal) => until(() => covers(position), AbortSignal.any([signal, stopping.signal])),
      value(table, rowKey, column, before) {
        // Given up, it does not know what came since.
        if (comparePositions(delivery.cursor.position, before) < 0) return null;
        return lookup.value(table, rowKey, column, before);
      },
    },
    table: (schema, name) => lookup.table(schema, name),
    complete,
    get keyless() {
      return [...keyless];
    },
    get failedFills() {
      return failedFills();
    },
    get filled() {
      return (filled ||= isFilled());
    },
    async reach(lsn, signal) {
      for (let polls = 0; log.progress < lsn; polls++) {
        if (polls % POKE_EVERY_POLLS === 0) poke();
        await pause(POLL_MS, signal);
        signal.throwIfAborted();
      }
      await reachPosition(log.durableLsn, signal);
    },
    async compare({ connection, message, drained, signal }) {
      await reachPosition(log.durableLsn, signal);
      const index: DiffedIndex = {
        table: (schema, name) => lookup.table(schema, name),
        complete,
        oids: () => lookup.oids(),
      };
      const summary = await diffPublication({ connection, publication, index, message, drained, signal });
      if (summary.reloaded.length > 0) {
        options.onNotice?.(
          `repair: emptied and loaded again, because they could not be compared: ${summary.reloaded.join(', ')}`,
        );
      }
      return summary;
    },
    oids: () => lookup.oids(),
    async forget(oids) {
      await sink.forget(oids);
      const gone = new Set(oids);
      for (const one of added) if (gone.has(Number.parseInt(one, 10))) added.delete(one);
    },
    async stop() {
      clearInterval(collecting);
      stopping.abort();
      await delivery.stop();
      lookup.close();
    },
  };
}

/** Rows of the first fill as operations of the index. */
function readWith(encoder: RowEncoder, published: ReadonlyMap<number, ReadTable>): WriteRead {
  const known = new WeakMap<TableSchema, ReadTable>();
  return (batch, schema, bytes, columns, _index, about) => {
    let table = known.get(schema);
    if (table === undefined) {
      const described = published.get(schema.oid);
      if (described === undefined || !sameShape(schema, described.schema)) {
        throw new MillraceError('row_index_reset', { detail: 'A table was altered while it was read.' });
      }
      table = described;
      known.set(schema, table);
    }
    return encoder.read(batch, table, bytes, columns, about.at);
  };
}

function sameShape(a: TableSchema, b: TableSchema): boolean {
  return (
    a.columns.length === b.columns.length &&
    a.columns.every(({ name, type }, i) => name === b.columns[i]!.name && type.oid === b.columns[i]!.type.oid)
  );
}
