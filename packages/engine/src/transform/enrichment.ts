/**
 * Enrichment: SQL on the source adds what it knows of a row now to `metadata.enrichment` of its message, before any other
 * function sees it. One query per table and batch, whatever the number of messages; rows are matched by primary key.
 *
 * What has no row to be looked up (deletes, truncates, shapes of tables, logical messages) keeps null, as does a row
 * that is gone by now. The state is that of now, not of the commit.
 */
import { assert } from '@millrace/core/assert';
import { MillraceError } from '@millrace/core/error';
import type { PgConnection } from '@millrace/postgres/connection';
import { MessageBatch } from '@millrace/sinks/message-batch';
import { askEnrichment, describeKey, type EnrichedKey, type EnrichmentQuery, keyText } from './enrichment-query.ts';
import type { EnrichmentSessions } from './enrichment-sessions.ts';
import type { FunctionMeter } from './function-meter.ts';
import type { Processed, Processor } from './processor.ts';

export interface EnrichmentOptions {
  /** Of the function. */
  readonly name: string;
  /** The SQL. One for every table, or parts that each begin with a line `-- table: schema.name`. */
  readonly code: string;
  /** Closed with the processor. */
  readonly sessions: Pick<EnrichmentSessions, 'use' | 'close'>;
  readonly timeoutMs?: number | undefined;
  /** null: every batch asks anew. */
  readonly cache: { readonly ttlMs: number; readonly rowsMax: number } | null;
  readonly now?: (() => number) | undefined;
  /** What keeps a column of the primary key from messages; nothing can be looked up by one. Absent: nothing does. */
  readonly concealedBy?: ((schema: string, table: string, column: string) => string | null) | undefined;
  /** Counts queries. */
  readonly meter?: FunctionMeter | undefined;
}

/** The key of a table whose column `by` (of the sink's columns) conceals. */
export function concealedKeyError(name: string, table: string, column: string, by: string): MillraceError {
  return new MillraceError('enrichment_failed', {
    detail: `Function "${name}": column "${column}" of the primary key of ${table} is kept from messages by columns.${by}.`,
    hint: `Rows are looked up by the key that is in the message. ${by === 'include' ? `Add "${column}" to columns.include` : `Take "${column}" out of columns.${by}`}, or do without the enrichment.`,
  });
}

const TIMEOUT_MS = 10_000;
/** So long the primary key of a table is taken for granted. */
const KEY_LIFE_MS = 60_000;
const TABLES_MAX = 1000;
/** The start of what every message ends with. What comes before the last of them is the row's own. */
const ENRICHMENT = Buffer.from('"enrichment":null,"database_name":');
const VALUE_OFFSET = '"enrichment":'.length;
const NULL = Buffer.from('null');
const ENRICHED_ACTIONS: ReadonlySet<unknown> = new Set(['insert', 'update', 'read']);

interface Parsed {
  readonly action: string;
  readonly metadata: {
    readonly table_schema: string;
    readonly table_name: string;
    readonly record_pks: readonly (string | null)[];
  };
}

/** What is to be put into one message: JSON; or why it cannot be. */
type Enriched = { readonly json: Buffer } | { readonly error: MillraceError };

/** Enrichment in front of the functions; null: there are none, the messages go on as they are. */
export function withEnrichment(processor: Processor | null, options: EnrichmentOptions): Processor {
  const enricher = new Enricher(options);
  let last: {
    readonly of: MessageBatch;
    readonly from: number;
    readonly mark: unknown;
    readonly through: unknown;
  } | null = null;
  let enriched: readonly Enriched[] = [];

  /** A batch of which a part was worked on is not asked for again. */
  async function enrich(batch: MessageBatch, from: number, signal: AbortSignal): Promise<void> {
    const { mark, through } = batch;
    if (last !== null && last.of === batch && last.from < from && last.mark === mark && last.through === through)
      return;
    enriched = await enricher.enrich(batch, from, signal);
    last = { of: batch, from, mark, through };
  }

  return {
    async process(batch, from, signal) {
      await enrich(batch, from, signal);
      const values = enriched.slice(from - last!.from);
      const failed = values.findIndex((one) => 'error' in one);
      if (failed === 0) {
        // Asked again when it is tried again.
        last = null;
        return [{ kind: 'failed', error: (values[0] as { error: MillraceError }).error }];
      }
      const whole = failed < 0 ? values : values.slice(0, failed);
      const next = rewritten(batch, from, whole as readonly { json: Buffer }[]);
      if (processor !== null) return await processor.process(next, 0, signal);
      const results: Processed[] = [];
      for (let i = 0; i < next.count; i++) {
        const body = next.body.buffer.subarray(next.start(i), next.ends[i]);
        results.push({ kind: 'messages', messages: [{ body, json: true, route: null }] });
      }
      return results;
    },
    async close() {
      options.meter?.close();
      await Promise.all([processor?.close(), options.sessions.close()]);
    },
  };
}

class Enricher {
  readonly #options: EnrichmentOptions;
  readonly #queries: ReadonlyMap<string | null, EnrichmentQuery>;
  readonly #keys = new Map<string, { readonly key: EnrichedKey | null; readonly until: number }>();
  readonly #cache: RowCache | null;
  readonly #now: () => number;

  constructor(options: EnrichmentOptions) {
    this.#options = options;
    const { name, code, timeoutMs = TIMEOUT_MS, cache, now = Date.now } = options;
    this.#queries = new Map([...partsOf(code)].map(([table, sql]) => [table, { name, sql, timeoutMs }]));
    this.#now = now;
    this.#cache = cache === null ? null : new RowCache(cache, now);
  }

  /** For each message from `from` on. */
  async enrich(batch: MessageBatch, from: number, signal: AbortSignal): Promise<Enriched[]> {
    const results: Enriched[] = Array.from({ length: batch.count - from }, () => ({ json: NULL }));
    const tables = new Map<string, { parsed: Parsed; messages: { at: number; key: readonly string[] }[] }>();
    for (let i = from; i < batch.count; i++) {
      const parsed = JSON.parse(batch.body.buffer.toString('utf8', batch.start(i), batch.ends[i])) as Parsed;
      const { table_schema: schema, table_name: table, record_pks: key } = parsed.metadata;
      if (!ENRICHED_ACTIONS.has(parsed.action)) continue;
      const name = `${schema}.${table}`;
      if (this.#queries.get(name) === undefined && this.#queries.get(null) === undefined) continue;
      const others = tables.get(name) ?? { parsed, messages: [] };
      others.messages.push({ at: i - from, key: key.map((value) => value ?? '') });
      tables.set(name, others);
    }
    for (const [name, { parsed, messages }] of tables) {
      const query = (this.#queries.get(name) ?? this.#queries.get(null))!;
      const found = await this.#find(query, name, parsed, messages, signal);
      for (const { at, key } of messages) results[at] = enrichedBy(query, found.get(keyText(key)));
    }
    return results;
  }

  async #find(
    query: EnrichmentQuery,
    name: string,
    { metadata }: Parsed,
    messages: readonly { readonly key: readonly string[] }[],
    signal: AbortSignal,
  ): Promise<ReadonlyMap<string, Found>> {
    const found = new Map<string, Found>();
    const missing = new Map<string, readonly string[]>();
    for (const { key } of messages) {
      const text = keyText(key);
      const cached = this.#cache?.get(name, text);
      if (cached !== undefined) found.set(text, { json: cached, count: 1 });
      else missing.set(text, key);
    }
    if (missing.size === 0) return found;
    const rows = await this.#metered(signal, async (session) => {
      const key = await this.#keyOf(name, () =>
        describeKey(session, query, { schema: metadata.table_schema, table: metadata.table_name }),
      );
      // Gone, with all its rows.
      if (key === null) return new Map();
      this.#requireShown(query, metadata, key);
      const keys = [...missing.values()];
      if (keys.some((one) => one.length !== key.columns.length)) {
        this.#keys.delete(name);
        throw new MillraceError('enrichment_failed', {
          detail: `Function "${query.name}": the primary key of "${metadata.table_schema}"."${metadata.table_name}" is another than when a message was captured.`,
        });
      }
      return await askEnrichment(session, query, key, keys);
    });
    for (const text of missing.keys()) {
      const row = rows.get(text);
      found.set(text, row ?? NOT_FOUND);
      if (row === undefined || row.count === 1) this.#cache?.set(name, text, row?.json ?? NULL);
    }
    return found;
  }

  /** How long it takes, with what it waits for a session. */
  async #metered<T>(signal: AbortSignal, work: (session: PgConnection) => Promise<T>): Promise<T> {
    const { sessions, meter } = this.#options;
    const begun = performance.now();
    let failure: unknown = null;
    try {
      return await sessions.use(signal, work);
    } catch (error) {
      failure = error;
      throw error;
    } finally {
      meter?.countQuery((performance.now() - begun) / 1000, failure);
    }
  }

  #requireShown(
    { name }: EnrichmentQuery,
    { table_schema: schema, table_name: table }: Parsed['metadata'],
    key: EnrichedKey,
  ) {
    const { concealedBy } = this.#options;
    if (concealedBy === undefined) return;
    for (const column of key.columns) {
      const by = concealedBy(schema, table, column);
      if (by !== null) throw concealedKeyError(name, `"${schema}"."${table}"`, column, by);
    }
  }

  async #keyOf(name: string, describe: () => Promise<EnrichedKey | null>): Promise<EnrichedKey | null> {
    const known = this.#keys.get(name);
    if (known !== undefined && known.until > this.#now()) return known.key;
    const key = await describe();
    if (this.#keys.size >= TABLES_MAX) this.#keys.clear();
    this.#keys.set(name, { key, until: this.#now() + KEY_LIFE_MS });
    return key;
  }
}

interface Found {
  readonly json: Buffer;
  readonly count: number;
}

const NOT_FOUND: Found = { json: NULL, count: 1 };

function enrichedBy({ name }: EnrichmentQuery, found: Found | undefined): Enriched {
  assert(found !== undefined, 'every key was asked for');
  if (found.count === 1) return { json: found.json };
  const error = new MillraceError('enrichment_failed', {
    detail: `Function "${name}": its SQL returned ${found.count} rows for one message.`,
    hint: 'It has to return at most one row per primary key: aggregate, or use DISTINCT ON.',
  });
  return { error };
}

/** The messages from `from` on, as many as there are values, with these in place of null. */
function rewritten(batch: MessageBatch, from: number, values: readonly { readonly json: Buffer }[]): MessageBatch {
  const limits = { messagesMax: values.length, bytesMax: Number.MAX_SAFE_INTEGER, messageOverhead: 0 };
  const next = new MessageBatch(limits, { described: batch.descriptions !== null });
  const body = batch.body.view();
  let run = 0;
  for (let i = 0; i < values.length; i++) {
    const index = from + i;
    while (batch.runEnds[run]! <= index) run++;
    const end = batch.ends[index]!;
    const message = body.subarray(batch.start(index), end);
    const at = message.lastIndexOf(ENRICHMENT);
    assert(at >= 0, 'every message has a place for its enrichment');
    next.body.bytes(message.subarray(0, at + VALUE_OFFSET));
    next.body.bytes(values[i]!.json);
    next.body.bytes(message.subarray(at + VALUE_OFFSET + NULL.length));
    next.add(batch.runLsns[run]!, batch.ordinals[index]!);
  }
  if (next.descriptions !== null) {
    for (const [name, all] of Object.entries(batch.descriptions!) as [keyof typeof next.descriptions, unknown][]) {
      if (Array.isArray(all)) (next.descriptions[name] as unknown[]).push(...all.slice(from, from + values.length));
    }
  }
  next.mark = from + values.length === batch.count ? batch.mark : null;
  next.through = batch.through;
  return next;
}

const PART = /^--[ \t]*table:[ \t]*(\S+)[ \t]*$/gm;

/** SQL by table; null: of every other one. */
export function partsOf(code: string): ReadonlyMap<string | null, string> {
  const parts = new Map<string | null, string>();
  const starts = [...code.matchAll(PART)];
  const common = code.slice(0, starts[0]?.index ?? code.length);
  if (common.trim() !== '') parts.set(null, common);
  for (const [i, match] of starts.entries()) {
    const name = match[1]!;
    parts.set(
      name.includes('.') ? name : `public.${name}`,
      code.slice(match.index, starts[i + 1]?.index ?? code.length),
    );
  }
  return parts;
}

/** Rows that were found a moment ago, the oldest go first. */
class RowCache {
  readonly #limits: { readonly ttlMs: number; readonly rowsMax: number };
  readonly #now: () => number;
  readonly #rows = new Map<string, { readonly json: Buffer; readonly until: number }>();

  constructor(limits: { readonly ttlMs: number; readonly rowsMax: number }, now: () => number) {
    this.#limits = limits;
    this.#now = now;
  }

  get(table: string, key: string): Buffer | undefined {
    const row = this.#rows.get(`${table} ${key}`);
    return row !== undefined && row.until > this.#now() ? row.json : undefined;
  }

  set(table: string, key: string, json: Buffer): void {
    const name = `${table} ${key}`;
    this.#rows.delete(name);
    this.#rows.set(name, { json, until: this.#now() + this.#limits.ttlMs });
    if (this.#rows.size > this.#limits.rowsMax) this.#rows.delete(this.#rows.keys().next().value!);
  }
}
