/**
 * The sinks of a running pipeline: each with its feed, its backfills and its delivery; added, replaced and removed one by
 * one while the others go on. What a sink remembers (cursor, backfills) outlives its replacement, not its removal.
 */

import { MillraceError } from '@millrace/core/error';
import type { Lsn } from '@millrace/core/lsn';
import { pause } from '@millrace/core/pause';
import { comparePositions, type Position } from '@millrace/core/position';
import { sinkKey } from '@millrace/core/sink-key';
import type { StateTable } from '@millrace/stream-store/store';
import { BackfillManager } from './backfill/backfill-manager.ts';
import type { BackfillSource } from './backfill/backfill-source.ts';
import { backfillStore } from './backfill/backfill-store.ts';
import type { ChangeLog } from './change-log/change-log.ts';
import { positionOf } from './change-log/log-places.ts';
import { type ChangeTail, tailChanges } from './change-tail.ts';
import { SCHEMA_MARK } from './decode/message-encoder.ts';
import type { SchemaHistory } from './decode/schema-history.ts';
import { type CursorStore, cursorStore, newCursor, openCursors } from './deliver/cursor-store.ts';
import { type Delivery, type DeliveryOptions, type DeliveryState, startDelivery } from './deliver/delivery.ts';
import { openMeasuredFeed } from './deliver/measured-feed.ts';
import { operatorMemory } from './deliver/operator-memory.ts';
import { openProcessedFeed, processedBatch } from './deliver/processed-feed.ts';
import { startPushDelivery } from './deliver/push-delivery.ts';
import type { DeliveryNotice } from './deliver/push-options.ts';
import type { LastValues } from './last-values.ts';
import { MarkSeal } from './mark-seal.ts';
import type { PipelineOptions } from './pipeline-options.ts';
import type { PushDown } from './publication-push-down.ts';
import { openSinkFeed, type SinkFeedOptions } from './sink-feed.ts';
import type { SinkSpec, StreamTarget } from './sink-spec.ts';
import type { SourceCatalog } from './source-catalog.ts';

export interface SinkSetParts {
  readonly options: Pick<PipelineOptions, 'state' | 'onSink' | 'onBackfill' | 'onContentNotice' | 'onDelivery'>;
  readonly publication: string;
  readonly log: ChangeLog;
  readonly schemas: SchemaHistory;
  readonly catalog: SourceCatalog;
  readonly pushDown: PushDown;
  readonly backfillSource: BackfillSource;
  readonly lastValues: () => LastValues | null;
  readonly poke: () => void;
}

interface RunningSink {
  readonly spec: SinkSpec;
  readonly backfills: BackfillManager;
  readonly delivery: Delivery;
}

/** How long sinks that change are waited for; one that is further behind may stop with columns_left_out or rows_left_out. */
const PASSED_MS = 10_000;
const PASSED_POLL_MS = 10;
const POKE_EVERY_POLLS = 20;

export class SinkSet {
  readonly #parts: SinkSetParts;
  #specs: readonly SinkSpec[];
  #cursors = new Map<string, CursorStore>();
  readonly #running = new Map<string, RunningSink>();
  readonly #failed = Promise.withResolvers<never>();
  /** One change at a time. */
  #changing: Promise<unknown> = Promise.resolve();
  #started = false;
  /** Ends waits of a change that is under way. */
  readonly #stopping = new AbortController();

  private constructor(parts: SinkSetParts, specs: readonly SinkSpec[]) {
    this.#parts = parts;
    this.#specs = specs;
    this.#failed.promise.catch(() => {});
  }

  /** On record, not started: from here on the log keeps what they have yet to see. */
  static async open(parts: SinkSetParts, specs: readonly SinkSpec[]): Promise<SinkSet> {
    const set = new SinkSet(parts, specs);
    await set.#openCursors(specs);
    return set;
  }

  /** All, the disabled ones too. */
  get specs(): readonly SinkSpec[] {
    return this.#specs;
  }

  get deliveries(): readonly Delivery[] {
    return [...this.#running.values()].map(({ delivery }) => delivery);
  }

  /** By sink; of those that are not disabled. */
  get backfills(): ReadonlyMap<string, BackfillManager> {
    return new Map([...this.#running].map(([name, { backfills }]) => [name, backfills]));
  }

  /** Rejects when one of them cannot go on for a bug in this program, or for the store. */
  get failed(): Promise<never> {
    return this.#failed.promise;
  }

  /**
   * Rejects, with none of them started, when a table that a new one names is not there or not published. One that has run
   * before goes on without: a table that was dropped must not stop the capture of all others at the next start.
   */
  async start(): Promise<void> {
    for (const spec of this.#specs) if (!this.#cursors.get(spec.name)!.begun) await this.#requireTables(spec);
    this.#started = true;
    for (const spec of this.#specs) this.#startOne(spec);
  }

  /**
   * From now on these. What has the fingerprint it had goes on untouched; the others are stopped where they are and go on
   * from there, or begin at the log's end when they are new. Rejects, with nothing changed, when a new one names a
   * table that is not there. `false`, with nothing changed: the row index would have to be another, which takes a restart
   * of the pipeline.
   */
  apply(specs: readonly SinkSpec[]): Promise<boolean> {
    const change = this.#changing.then(() => this.#apply(specs));
    this.#changing = change.catch(() => {});
    return change;
  }

  async #apply(specs: readonly SinkSpec[]): Promise<boolean> {
    if (!this.#started) return false;
    const now = new Map(this.#specs.map((spec) => [spec.name, spec]));
    const next = new Map(specs.map((spec) => [spec.name, spec]));
    const changed = specs.filter((spec) => now.get(spec.name)?.fingerprint !== spec.fingerprint);
    const gone = this.#specs.filter(({ name }) => !next.has(name));
    const touched = [...changed, ...changed.flatMap(({ name }) => now.get(name) ?? []), ...gone];
    if (touched.some((spec) => spec.fillUnchanged && spec.status !== 'disabled')) return false;
    for (const spec of changed) await this.#requireTables(spec);
    const { pushDown } = this.#parts;
    const wideFrom = await pushDown.widen(this.#specs, specs);
    if (wideFrom !== null) await this.#passed(wideFrom, changed);
    try {
      await this.#beginNew(changed);
    } catch (error) {
      await pushDown.narrow(this.#specs);
      throw error;
    }
    await Promise.all([...changed, ...gone].map(({ name }) => this.#stopOne(name)));
    for (const { name } of gone) await forgetSink(this.#parts.options.state, name);
    await this.#openCursors(changed);
    this.#specs = specs.map((spec) => (changed.includes(spec) ? spec : now.get(spec.name)!));
    for (const spec of changed) this.#startOne(spec);
    await pushDown.narrow(this.#specs);
    return true;
  }

  /** The log has come to `lsn`, and so have those that are going to change: else they would stop at what was left out. */
  async #passed(lsn: Lsn, changed: readonly SinkSpec[]): Promise<void> {
    const { log, poke } = this.#parts;
    const deadline = performance.now() + PASSED_MS;
    // What the log holds when it has come there is all that is to be passed: an idle source adds nothing.
    let last: Lsn | null = null;
    const passed = () => {
      if (last === null && log.progress >= lsn) last = log.durableLsn < lsn ? log.durableLsn : lsn;
      if (last === null) return false;
      const behind = changed
        .flatMap(({ name }) => this.#running.get(name) ?? [])
        .filter(({ spec, delivery }) => spec.status === 'active' && delivery.state.kind === 'running');
      return behind.every(({ delivery }) => delivery.cursor.position.lsn >= last!);
    };
    const { signal } = this.#stopping;
    for (let polls = 0; !passed() && !signal.aborted && performance.now() < deadline; polls++) {
      if (polls % POKE_EVERY_POLLS === 0) poke();
      await pause(PASSED_POLL_MS, signal);
    }
  }

  /** What this sink gets, read along; until the signal, or until the sink is stopped or changed. null: it does not run. */
  tail(name: string, after: Position | 'now' | 'oldest', signal: AbortSignal): Promise<ChangeTail> | null {
    const running = this.#running.get(name);
    if (running === undefined) return null;
    const { log, schemas, lastValues } = this.#parts;
    const over = new AbortController();
    void running.delivery.done.catch(() => {}).then(() => over.abort());
    const place = { now: newCursor(log.durableLsn).position, oldest: running.delivery.savedPosition };
    const from = typeof after === 'string' ? place[after] : after;
    return this.#parts.pushDown.ready(running.spec, from.lsn).then(() =>
      tailChanges({
        spec: running.spec,
        log,
        schemas,
        lastValues: lastValues(),
        after: from,
        signal: AbortSignal.any([signal, over.signal]),
      }),
    );
  }

  async stop(): Promise<void> {
    this.#stopping.abort();
    this.#parts.pushDown.stop();
    await this.#changing;
    await Promise.all([...this.#running.values()].map(({ delivery }) => delivery.stop()));
  }

  async #requireTables(spec: SinkSpec): Promise<void> {
    await this.#parts.catalog.requireTables(spec.tables);
  }

  /** While nothing is stopped: the place where one is to begin may be gone. */
  async #beginNew(specs: readonly SinkSpec[]): Promise<void> {
    const { state } = this.#parts.options;
    const isNew = (name: string) => cursorStore(state, sinkKey(name, 'cursor')).load() === null;
    const begin = specs.filter(({ name, status }) => status !== 'disabled' && isNew(name));
    try {
      await this.#openCursors(begin);
    } catch (error) {
      for (const { name } of begin) await forgetSink(state, name);
      throw error;
    }
  }

  async #openCursors(specs: readonly SinkSpec[]): Promise<void> {
    const { options, log } = this.#parts;
    const begin = async (spec: SinkSpec) => {
      const position = await beginningOf(log, spec);
      const wide = newCursor(this.#parts.pushDown.wideFrom).position;
      return (spec.start ?? 'now') === 'now' && comparePositions(position, wide) < 0 ? wide : position;
    };
    for (const [name, cursor] of await openCursors(specs, options.state, begin)) this.#cursors.set(name, cursor);
  }

  async #stopOne(name: string): Promise<void> {
    await this.#running.get(name)?.delivery.stop();
    this.#running.delete(name);
    this.#cursors.delete(name);
  }

  #startOne(spec: SinkSpec): void {
    if (spec.status === 'disabled') return;
    const { options, log, schemas, backfillSource, lastValues, poke } = this.#parts;
    const { state, onSink, onBackfill, onDelivery, onContentNotice: onNotice } = options;
    const manager = new BackfillManager({
      sink: spec.name,
      store: backfillStore(state, sinkKey(spec.name, 'backfills')),
      source: backfillSource,
      initial: spec.initialBackfill,
      initialId: spec.backfillId,
      takes: spec.takes,
      takesUpdates: (schema, table) => takesEveryUpdate(spec, schema, table),
      onChange: (view) => onBackfill?.(spec.name, view),
    });
    const seal = new MarkSeal(state, spec);
    const { pushDown } = this.#parts;
    const published = (after: Lsn) => pushDown.ready(spec, after);
    const announced: SinkFeedOptions['announced'] = (table, lsn) => pushDown.announced(spec, table, lsn);
    const openFeed = openSinkFeed({
      spec,
      log,
      schemas,
      manager,
      lastValues: lastValues(),
      seal,
      poke,
      published,
      announced,
      onNotice,
    });
    const shared = {
      name: spec.name,
      paused: spec.status === 'paused',
      cursors: this.#cursors.get(spec.name)!,
      memory: operatorMemory(state, spec.name),
      keepsMark: (id: string) =>
        id.startsWith(SCHEMA_MARK) ? schemas.knows(Number(id.slice(SCHEMA_MARK.length))) : manager.keepsMark(id),
      openFeed,
      onState: (event: DeliveryState) => onSink?.(spec.name, event),
    };
    const { target } = spec;
    const noticed = (notice: DeliveryNotice) => onDelivery?.(spec.name, notice);
    const delivery =
      target.kind === 'push'
        ? startPushDelivery({
            ...shared,
            ...target,
            databaseName: spec.origin.database.name,
            log: { end: () => log.durableLsn, positionOf: (place) => positionOf(log, place) },
            onNotice: noticed,
          })
        : startStreamDelivery(target, shared, noticed);
    delivery.done.catch((error: unknown) => this.#failed.reject(error));
    this.#running.set(spec.name, { spec, backfills: manager, delivery });
  }
}

/** Whether no update of the table can be held back from the sink. */
function takesEveryUpdate({ actions, rules, filtered }: SinkSpec, schema: string, table: string): boolean {
  const own = rules?.tables.find((one) => one.schema === schema && one.name === table);
  return actions.update && filtered !== true && !rules?.where.length && !own?.where.length;
}

function startStreamDelivery(
  { sink, policy, processing }: StreamTarget,
  shared: Omit<DeliveryOptions, 'sink'>,
  onNotice: (notice: DeliveryNotice) => void,
): Delivery {
  const options = { ...policy, onNotice };
  if (processing === undefined) {
    return startDelivery({ ...shared, sink, openFeed: openMeasuredFeed(shared.openFeed, options) });
  }
  const delivery = startDelivery({
    ...shared,
    sink,
    openFeed: openProcessedFeed(shared.openFeed, sink.limits.messageOverhead, { ...options, ...processing }),
    newBatch: () => processedBatch(sink.limits),
  });
  void delivery.done.catch(() => {}).then(() => processing.processor.close());
  return delivery;
}

/** After this comes what the sink gets, when it is new. */
async function beginningOf(log: ChangeLog, { name, start = 'now' }: SinkSpec): Promise<Position> {
  try {
    return await positionOf(log, start);
  } catch (error) {
    if (!(error instanceof MillraceError) || error.code !== 'log_overrun') throw error;
    throw new MillraceError('log_overrun', {
      detail: `The sink "${name}" is new, and a part of what comes after its start is forgotten.`,
      hint: 'Set start: beginning for all that the log still has, and initial_backfill: true for the rows as they are.',
      cause: error,
    });
  }
}

/** One that is put back later starts anew. */
export async function forgetSink(state: StateTable, name: string): Promise<void> {
  for (const [key] of [...state.list(sinkKey(name, ''))]) await state.delete(key);
}
