/**
 * Asks the server, every so often and on a connection of its own, what it says of itself, the slot and the publication.
 * A question that is not answered in time ends the connection and is a failure. Nothing else waits for the answers.
 */
import type { MillraceError } from '@millrace/core/error';
import { pause } from '@millrace/core/pause';
import { unforeseen } from '@millrace/core/unforeseen';
import { type ConnectionConfig, PgConnection } from '@millrace/postgres/connection';
import {
  readPublicationFacts,
  readPublishedTables,
  readServerFacts,
  readSlotFacts,
} from '@millrace/postgres/source-facts';
import type { HealthTiming } from './health-timing.ts';
import type { Probe, SourceNames, TableProbe } from './source-checks.ts';

export interface ProberOptions {
  readonly connection: ConnectionConfig;
  readonly names: SourceNames;
  readonly timing: HealthTiming;
  /** Monotonic. */
  readonly now: () => number;
  readonly onProbe?: (probe: Probe) => void;
}

export interface SourceProber {
  readonly probe: Probe | null;
  readonly tables: TableProbe | null;
  /** Why the last round failed; null: it did not. */
  readonly failure: MillraceError | null;
  /** Resolves after a round that begins now, tables included. */
  refresh(): Promise<void>;
  stop(): Promise<void>;
}

export function startProber({ connection: config, names, timing, now, onProbe }: ProberOptions): SourceProber {
  const stopping = new AbortController();
  const { signal } = stopping;
  let connection: PgConnection | null = null;
  let probe: Probe | null = null;
  let tables: TableProbe | null = null;
  let failure: MillraceError | null = null;
  let round: Promise<void> | null = null;

  async function connected(): Promise<PgConnection> {
    if (connection !== null) return connection;
    const opened = await PgConnection.connect(
      { ...config, connectTimeoutMs: timing.probeTimeoutMs, applicationName: 'millrace health' },
      signal,
    );
    connection = opened;
    void opened.closed.then(() => {
      if (connection === opened) connection = null;
    });
    return opened;
  }

  async function ask(withTables: boolean): Promise<void> {
    const open = await connected();
    const timer = setTimeout(() => void open.close(), timing.probeTimeoutMs);
    try {
      const server = await readServerFacts(open);
      probe = { atMs: now(), server, slot: await readSlotFacts(open, names.slot) };
      onProbe?.(probe);
      if (!withTables) return;
      const publication = await readPublicationFacts(open, names.publication);
      const published = publication === null ? [] : await readPublishedTables(open, names.publication);
      tables = { atMs: now(), publication, tables: published };
    } finally {
      clearTimeout(timer);
    }
  }

  /** One at a time. */
  function run(withTables: boolean): Promise<void> {
    const before = round ?? Promise.resolve();
    const mine = before
      .then(() => ask(withTables))
      .then(
        () => {
          failure = null;
        },
        async (error: unknown) => {
          failure = unforeseen(error);
          const lost = connection;
          connection = null;
          await lost?.close();
        },
      );
    round = mine;
    return mine;
  }

  async function loop(): Promise<void> {
    while (!signal.aborted) {
      const due = tables === null || now() - tables.atMs >= timing.tablesMs;
      await run(due);
      await pause(timing.probeMs, signal);
    }
  }

  const done = loop();
  return {
    get probe() {
      return probe;
    },
    get tables() {
      return tables;
    },
    get failure() {
      return failure;
    },
    refresh: () => run(true),
    async stop() {
      stopping.abort();
      await connection?.close();
      await done;
      await round;
      await (connection as PgConnection | null)?.close();
    },
  };
}
