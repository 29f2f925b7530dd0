/** Capture alone, from a real database into a change log, and what a reader of that log is shown. */
import { rmSync } from 'node:fs';
import { join } from 'node:path';
import type { Lsn } from '@millrace/core/lsn';
import { type Capture, type CaptureState, startCapture } from '@millrace/engine/capture/capture';
import { SourceState } from '@millrace/engine/capture/source-state';
import { ChangeLog } from '@millrace/engine/change-log/change-log';
import { LogReader } from '@millrace/engine/change-log/log-reader';
import { ChangeScanner, type ChangeVisitor } from '@millrace/engine/decode/change-scanner';
import {
  DELETE,
  decodeMessage,
  decodeRelation,
  decodeTruncate,
  INSERT,
  type Relation,
  RowReader,
  VALUE_NULL,
  VALUE_UNCHANGED,
} from '@millrace/postgres/pgoutput';
import { type LocalStore, type LocalStoreOptions, openLocalStore } from '@millrace/stream-store/local-store';
import { type TestDatabase, testDirectory } from '@millrace/testkit/postgres';

/** A change in words: `insert t {"id":"1"}`, `truncate t`, `message prefix content`. */
export interface CapturedTransaction {
  readonly lsn: Lsn;
  readonly xid: number;
  readonly commitTimeMicros: bigint;
  readonly changes: readonly string[];
  readonly ordinals: readonly number[];
}

export interface Captured {
  readonly capture: Capture;
  readonly log: ChangeLog;
  readonly dir: string;
  readonly spoolDir: string;
  /** Waits until everything that was flushed before now was received, and of that the log holds what was committed. */
  arrived(): Promise<void>;
  /** Everything the log holds. */
  transactions(): Promise<CapturedTransaction[]>;
  /** Everything the log holds once all has arrived. */
  caughtUp(): Promise<CapturedTransaction[]>;
  stop(): Promise<void>;
  remove(): Promise<void>;
}

export interface CaptureTestOptions {
  readonly dir?: string;
  readonly streaming?: boolean;
  readonly slot?: string;
  readonly spoolDir?: string;
  readonly connection?: Partial<{
    host: string;
    port: number;
    user: string;
    password: string;
    answerMs: number;
    ssl: 'disable' | 'verify-full';
    sslRootCert: string;
  }>;
  readonly store?: Omit<LocalStoreOptions, 'dir'>;
  readonly publicationSql?: string;
  readonly onCapture?: (state: CaptureState) => void;
  readonly awaitMs?: number;
  /** Stops capture, also while it starts. */
  readonly signal?: AbortSignal;
}

export async function startCapturing(db: TestDatabase, options: CaptureTestOptions = {}): Promise<Captured> {
  const dir = options.dir ?? testDirectory('captured');
  const spoolDir = options.spoolDir ?? join(dir, 'spool');
  const store = await openLocalStore({ ...options.store, dir: join(dir, 'store') });
  const { host, port, user, password, database } = db.config;
  const stream = store.openLogStream('changes') ?? (await store.createLogStream('changes'));
  const log = await ChangeLog.open(stream, store.state, 'source/shop');
  const capture = startCapture({
    source: {
      name: 'shop',
      connection: { host, port, user, password, database, ssl: 'disable', ...options.connection },
      slot: { name: options.slot ?? db.name, createIfNotExists: true },
      publication: { name: 'all', createIfNotExists: true, initSql: options.publicationSql },
    },
    state: new SourceState(store.state, 'source/shop/identity'),
    log,
    awaitMs: options.awaitMs ?? 2_000,
    ...(options.onCapture && { onState: options.onCapture }),
    ...(options.streaming === false ? {} : { spoolDir }),
  });
  options.signal?.addEventListener('abort', () => void capture.stop());
  let stopped = false;
  const stop = async () => {
    if (stopped) return;
    stopped = true;
    await capture.stop();
    log.close();
    await store.close();
  };
  await capture.started.catch(async (error: unknown) => {
    await stop();
    throw error;
  });
  async function arrived(): Promise<void> {
    const [{ lsn }] = await db.sql(`SELECT (pg_current_wal_flush_lsn() - '0/0')::text AS lsn`);
    const deadline = performance.now() + 40_000;
    while (log.progress < BigInt(lsn)) {
      if (performance.now() > deadline) {
        throw new Error(`the log does not get there: ${capture.state.kind}`, {
          cause: 'error' in capture.state ? capture.state.error : undefined,
        });
      }
      capture.poke();
      await log.changed(AbortSignal.timeout(20));
    }
  }
  return {
    capture,
    log,
    dir,
    spoolDir,
    transactions: () => readLog(log),
    arrived,
    async caughtUp() {
      await arrived();
      return readLog(log);
    },
    stop,
    async remove() {
      await stop();
      rmSync(dir, { recursive: true, force: true });
    },
  };
}

/** What a reader is shown that knows only the log. */
export async function readLog(log: ChangeLog): Promise<CapturedTransaction[]> {
  const found: CapturedTransaction[] = [];
  const relations = new Map<number, Relation>();
  const row = new RowReader();
  let open: { lsn: Lsn; xid: number; commitTimeMicros: bigint; changes: string[]; ordinals: number[] } | null = null;
  const add = (text: string, ordinal: number) => {
    open!.changes.push(text);
    open!.ordinals.push(ordinal);
  };
  const nameOf = (oid: number) => relations.get(oid)!.name;
  const visitor: ChangeVisitor = {
    relation(bytes, start, end) {
      const relation = decodeRelation(bytes, start, end);
      relations.set(relation.oid, relation);
    },
    begin(lsn, commitTimeMicros, xid) {
      open = { lsn, xid, commitTimeMicros, changes: [], ordinals: [] };
    },
    row(bytes, start, end, ordinal) {
      row.aim(bytes, start, end);
      const relation = relations.get(row.relationOid);
      if (relation === undefined) throw new Error('a row of a relation that was not announced');
      const values = (count: number, kinds: Int32Array, starts: Int32Array, ends: Int32Array) => {
        if (count !== relation.columns.length) throw new Error(`a row of ${count} columns: ${relation.name}`);
        const entries = relation.columns.map(({ name }, i) => [
          name,
          kinds[i] === VALUE_NULL
            ? null
            : kinds[i] === VALUE_UNCHANGED
              ? '(unchanged)'
              : bytes.toString('utf8', starts[i], ends[i]),
        ]);
        return JSON.stringify(Object.fromEntries(entries));
      };
      const fresh = row.newCount > 0 ? ` ${values(row.newCount, row.newKinds, row.newStarts, row.newEnds)}` : '';
      const old = row.oldCount > 0 ? ` was ${values(row.oldCount, row.oldKinds, row.oldStarts, row.oldEnds)}` : '';
      const action = bytes[start] === INSERT ? 'insert' : bytes[start] === DELETE ? 'delete' : 'update';
      add(`${action} ${relation.name}${fresh}${old}`, ordinal);
      return true;
    },
    truncate(bytes, start, end, ordinal, index) {
      add(`truncate ${nameOf(decodeTruncate(bytes, start, end).oids[index]!)}`, ordinal);
      return true;
    },
    message(bytes, start, end, ordinal) {
      const { prefix, contentStart, contentEnd } = decodeMessage(bytes, start, end);
      add(`message ${prefix} ${bytes.toString('utf8', contentStart, contentEnd)}`, ordinal);
      return true;
    },
    commit() {
      found.push(open!);
      open = null;
    },
  };
  const scanner = new ChangeScanner(log, visitor, { lsn: 0n, ordinal: -1 });
  const reader = new LogReader(log, log.stream.firstSeqNum);
  for (let chunk = await reader.next(); chunk !== null; chunk = await reader.next()) {
    scanner.feed(chunk);
    if (scanner.scan() === 'uncommitted') break;
  }
  return found;
}

/** The log of a directory that nobody writes to. */
export async function readStoredLog(dir: string): Promise<CapturedTransaction[]> {
  const store: LocalStore = await openLocalStore({ dir: join(dir, 'store') });
  try {
    return await readLog(await ChangeLog.open(store.openLogStream('changes')!, store.state, 'source/shop'));
  } finally {
    await store.close();
  }
}
