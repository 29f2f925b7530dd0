import { assert } from '@millrace/core/assert';
import { MillraceError } from '@millrace/core/error';
import type { BasinEntry, BatchHead, Carry, MetaEntry, StreamEntry } from './entries.ts';
import { FrozenState } from './frozen-state.ts';
import type { AccessTokenInfo, BasinConfig, BasinInfo, StreamInfo } from './model.ts';
import { NameIndex } from './name-index.ts';
import type { RecordCommand } from './record-commands.ts';
import type { StreamState } from './stream-state.ts';
import { loadStreams } from './stream-table/stream-entries.ts';
import type { StreamNames } from './stream-table/stream-names.ts';
import { StreamTable } from './stream-table/stream-table.ts';

/** Streams of the engine live here, out of reach of every client: the name is no valid basin name. */
export const INTERNAL_BASIN = '_millrace';

export interface BasinState {
  readonly name: string;
  readonly createdAt: number;
  readonly requestKey: string | null;
  readonly streams: StreamNames;
  config: BasinConfig;
  deletedAt: number | null;
  /** A deletion is staged: nothing new in here. */
  deleting: boolean;
}

export interface TokenState {
  readonly hash: string;
  readonly info: AccessTokenInfo;
}

/**
 * What the journal says, as of its last durable entry: every change comes in through `apply...`, from a live commit and
 * from recovery alike (I9).
 */
export class StoreState {
  readonly basins = new NameIndex<BasinState>();
  readonly streams: StreamTable;
  readonly internal: BasinState;
  /** By stream id, for the few whose deletion on empty a change of the config set in motion (janitor/). */
  readonly emptyArmedAt = new Map<number, number>();
  readonly tokens = new NameIndex<TokenState>();
  readonly tokensByHash = new Map<string, TokenState>();
  readonly table = new NameIndex<Uint8Array>();
  rootHash: string | null = null;
  /** Above every id ever given; ids in flight are counted by the store. */
  nextStreamId = 1;

  /** `hydratedMax`: streams kept as objects although they are idle. */
  constructor(hydratedMax?: number) {
    this.streams = new StreamTable(hydratedMax);
    this.internal = this.#newBasin({
      name: INTERNAL_BASIN,
      config: { defaultStreamConfig: {}, streamCipher: null, createStreamOnAppend: false, createStreamOnRead: false },
      createdAt: 0,
      deletedAt: null,
      requestKey: null,
    });
  }

  basinOf(name: string): BasinState | undefined {
    return name === INTERNAL_BASIN ? this.internal : this.basins.get(name);
  }

  applyMeta(entry: MetaEntry): void {
    switch (entry.type) {
      case 'basin':
        this.#applyBasin(entry);
        return;
      case 'basin-purged': {
        const basin = this.basins.get(entry.name);
        if (basin !== undefined) this.streams.dropBasin(basin.streams);
        this.basins.delete(entry.name);
        return;
      }
      case 'stream':
        this.#applyStream(entry);
        return;
      case 'stream-purged':
        this.streams.purge(entry.id);
        this.emptyArmedAt.delete(entry.id);
        return;
      case 'empty-armed':
        if (this.streams.has(entry.id)) this.emptyArmedAt.set(entry.id, entry.at);
        return;
      case 'token': {
        const token = { hash: entry.hash, info: entry.info };
        this.tokens.set(entry.info.id, token);
        this.tokensByHash.set(entry.hash, token);
        return;
      }
      case 'token-revoked': {
        const token = this.tokens.get(entry.id);
        if (token !== undefined) this.tokensByHash.delete(token.hash);
        this.tokens.delete(entry.id);
        return;
      }
      case 'root':
        this.rootHash = entry.hash;
        return;
      case 'next-stream-id':
        this.nextStreamId = Math.max(this.nextStreamId, entry.id);
        return;
      default:
        throw new MillraceError('storage_corrupt', { detail: 'The journal holds an entry of an unknown type.' });
    }
  }

  /** I1 on the way in, live and on replay: sequence numbers are dense. */
  applyBatch(state: StreamState, head: BatchHead, commands: readonly RecordCommand[]): void {
    assert(head.firstSeqNum === state.tailSeqNum, 'sequence numbers are dense (I1)');
    assert(head.lastTimestamp >= state.tailTimestamp, 'timestamps never decrease');
    state.advance(head.firstSeqNum + head.count, head.lastTimestamp, head.arrivalMs);
    for (const command of commands) {
      if (command.kind === 'fence') state.setFencingToken(command.token);
      else this.applyTrim(state, Math.min(command.trimTo, command.seqNum + 1));
    }
  }

  applyTrim(state: StreamState, seqNum: number): void {
    state.setTrimPoint(Math.max(state.trimPoint, Math.min(seqNum, state.tailSeqNum)));
  }

  applyCarry(carry: Carry): void {
    this.streams.carry(carry.streamId, carry);
  }

  /** Streams of a checkpoint. Without `places`, the files it names as theirs are not the store's. */
  applyStreams(payload: Buffer, places: boolean): void {
    const namesOf = (name: string) => {
      const basin = this.basinOf(name);
      assert(basin !== undefined, 'a checkpoint has the basins of its streams');
      return basin.streams;
    };
    this.nextStreamId = Math.max(this.nextStreamId, loadStreams(payload, this.streams, namesOf, places) + 1);
  }

  /** All of this moment but the log streams' data-plane state, which their own journal carries. */
  freeze(): FrozenState {
    const metas: MetaEntry[] = [{ type: 'next-stream-id', id: this.nextStreamId }];
    if (this.rootHash !== null) metas.push({ type: 'root', hash: this.rootHash });
    for (const basin of this.basins.values()) metas.push({ type: 'basin', ...basinEntry(basin) });
    const later: MetaEntry[] = [];
    for (const [id, at] of this.emptyArmedAt) later.push({ type: 'empty-armed', id, at });
    for (const token of this.tokens.values()) later.push({ type: 'token', hash: token.hash, info: token.info });
    return new FrozenState(metas, this.streams.freeze(), later, [...this.table.after('', undefined)]);
  }

  #applyBasin(entry: BasinEntry): void {
    const basin = this.basins.get(entry.name);
    if (basin === undefined) {
      this.basins.set(entry.name, this.#newBasin(entry));
      return;
    }
    basin.config = entry.config;
    basin.deletedAt = entry.deletedAt;
    basin.deleting ||= entry.deletedAt !== null;
  }

  #applyStream(entry: StreamEntry): void {
    if (this.streams.has(entry.id)) {
      this.streams.change(entry.id, entry.config, entry.deletedAt);
      return;
    }
    const basin = this.basinOf(entry.basin);
    assert(basin !== undefined, 'a stream is created in a basin that exists');
    assert(!basin.streams.has(entry.name), 'a name has one incarnation at a time');
    this.streams.create(basin.streams, entry);
    this.nextStreamId = Math.max(this.nextStreamId, entry.id + 1);
  }

  #newBasin(entry: BasinEntry): BasinState {
    return {
      name: entry.name,
      createdAt: entry.createdAt,
      requestKey: entry.requestKey,
      streams: this.streams.addBasin(entry.name),
      config: entry.config,
      deletedAt: entry.deletedAt,
      deleting: entry.deletedAt !== null,
    };
  }
}

export function basinEntry(basin: BasinState, change: { config?: BasinConfig; deletedAt?: number } = {}): BasinEntry {
  return {
    name: basin.name,
    config: change.config ?? basin.config,
    createdAt: basin.createdAt,
    deletedAt: change.deletedAt ?? basin.deletedAt,
    requestKey: basin.requestKey,
  };
}

export function carryOf(state: StreamState, withSegments: boolean): Carry {
  return {
    streamId: state.id,
    tailSeqNum: state.tailSeqNum,
    tailTimestamp: state.tailTimestamp,
    trimPoint: state.trimPoint,
    lastArrivalMs: state.lastArrivalMs,
    fencingToken: state.fencingToken,
    segments: withSegments ? state.segments : [],
  };
}

export function basinInfo(basin: BasinState): BasinInfo {
  return { name: basin.name, location: null, createdAt: basin.createdAt, deletedAt: basin.deletedAt };
}

export function streamInfo(state: StreamState): StreamInfo {
  return { name: state.name, createdAt: state.createdAt, deletedAt: state.deletedAt, cipher: state.cipher };
}
