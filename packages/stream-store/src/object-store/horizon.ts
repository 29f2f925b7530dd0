import type { JournalIndex } from '../index/journal-index.ts';
import type { Shelf } from '../store-core.ts';
import type { StoreState } from '../store-state.ts';
import type { BucketJournal } from './bucket-journal.ts';
import { type BucketBody, coveredBy } from './bucket-manifest.ts';
import { HORIZON_STREAMS_MAX } from './limits.ts';

/*
 * What a store in mode `tiered` had beyond the bucket, written there every few seconds: when the disk is lost, it says
 * what is. One object per epoch, `<prefix>horizon/<epoch>`, because an owner that was replaced may still write its own.
 */

export interface Horizon {
  readonly format: 1;
  readonly atMs: number;
  /** Closed in order, with everything uploaded: there is nothing beyond. */
  readonly closed: boolean;
  readonly segments: readonly HorizonSegment[];
}

export interface HorizonSegment {
  readonly journal: 'main' | 'log';
  readonly segment: number;
  readonly streams: readonly StreamSpan[];
  /** Streams that are not named. */
  readonly more: number;
}

/** Records [from, to) of a stream. */
export interface StreamSpan {
  readonly basin: string;
  readonly stream: string;
  readonly from: number;
  readonly to: number;
}

/** What is lost when nothing but the bucket is left. */
export interface Losses {
  /** Everything up to this time is either in the bucket or named here. */
  readonly asOfMs: number;
  readonly streams: readonly StreamSpan[];
  readonly more: number;
}

export function encodeHorizon(horizon: Horizon): Buffer {
  return Buffer.from(JSON.stringify(horizon), 'utf8');
}

/** null: not of this version. */
export function decodeHorizon(bytes: Buffer): Horizon | null {
  let json: Partial<Horizon> | null;
  try {
    json = JSON.parse(bytes.toString('utf8')) as Partial<Horizon> | null;
  } catch {
    return null;
  }
  if (json?.format !== 1 || typeof json.atMs !== 'number' || typeof json.closed !== 'boolean') return null;
  return Array.isArray(json.segments) && json.segments.every(isSegment) ? (json as Horizon) : null;
}

function isSegment(value: Partial<HorizonSegment> | null): boolean {
  if (value === null || typeof value.segment !== 'number' || typeof value.more !== 'number') return false;
  return (value.journal === 'main' || value.journal === 'log') && Array.isArray(value.streams);
}

/** What of the horizon is still missing in the bucket. null: nothing is, and nothing can have come after. */
export function lossesOf(horizon: Horizon | null, body: BucketBody): Losses | null {
  if (horizon?.closed) return null;
  const spans = new Map<string, StreamSpan>();
  let more = 0;
  for (const { journal, segment, streams, more: unnamed } of horizon?.segments ?? []) {
    if (segment < coveredBy(body[journal])) continue;
    more += unnamed;
    for (const span of streams) {
      const key = `${span.basin}\0${span.stream}`;
      const before = spans.get(key) ?? span;
      const [from, to] = [Math.min(before.from, span.from), Math.max(before.to, span.to)];
      spans.set(key, { basin: span.basin, stream: span.stream, from, to });
    }
  }
  return { asOfMs: horizon?.atMs ?? 0, streams: [...spans.values()], more };
}

/** Collects what the next horizon says. Sealed segments do not change, so each is looked through once. */
export class HorizonSource {
  readonly #state: StoreState;
  readonly #journals: readonly {
    readonly name: 'main' | 'log';
    readonly shelf: Shelf;
    readonly copies: BucketJournal;
  }[];
  readonly #sealed = new Map<string, HorizonSegment>();

  constructor(
    state: StoreState,
    journals: readonly { readonly name: 'main' | 'log'; readonly shelf: Shelf; readonly copies: BucketJournal }[],
  ) {
    this.#state = state;
    this.#journals = journals;
  }

  /** Everything that is not in the bucket, segment by segment, those without records left out. */
  async segments(): Promise<HorizonSegment[]> {
    const found: HorizonSegment[] = [];
    for (const { name, shelf, copies } of this.#journals) {
      const { journal, index } = shelf;
      const active = journal.segment;
      const { streams, more } = index.activeStreams(HORIZON_STREAMS_MAX);
      const now: HorizonSegment = { journal: name, segment: active, more, streams: this.#named(streams) };
      for (let segment = copies.covered; segment < active; segment++) {
        const key = `${name}:${segment}`;
        const known = this.#sealed.get(key) ?? (await this.#look(name, index, segment));
        if (known === null) continue;
        this.#sealed.set(key, known);
        found.push(known);
      }
      for (const [key, known] of this.#sealed) {
        if (known.journal === name && known.segment < copies.covered) this.#sealed.delete(key);
      }
      found.push(now);
    }
    return found.filter(({ streams, more }) => streams.length > 0 || more > 0);
  }

  async #look(journal: 'main' | 'log', index: JournalIndex, segment: number): Promise<HorizonSegment | null> {
    const sealed = await index.read(segment);
    if (sealed === null) return null;
    const streams: { id: number; from: number; to: number }[] = [];
    for (let i = 0; i < sealed.streamIds.length && i < HORIZON_STREAMS_MAX; i++) {
      const run = sealed.runAt(i);
      const last = run.row(run.length - 1);
      const { firstSeq, count } = run.table;
      streams.push({ id: sealed.streamIds[i]!, from: firstSeq[run.row(0)]!, to: firstSeq[last]! + count[last]! });
    }
    const more = sealed.streamIds.length - streams.length;
    return { journal, segment, streams: this.#named(streams), more };
  }

  /** Streams that are gone are no loss. */
  #named(streams: readonly { id: number; from: number; to: number }[]): StreamSpan[] {
    return streams.flatMap(({ id, from, to }) => {
      const state = this.#state.streams.get(id);
      return state === undefined ? [] : [{ basin: state.basin, stream: state.name, from, to }];
    });
  }
}
