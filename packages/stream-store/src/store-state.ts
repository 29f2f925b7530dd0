import { assert } from '@millrace/core/assert';
import { MillraceError } from '@millrace/core/error';
import {
  type BasinEntry,
  type BatchHead,
  type Carry,
  type MetaEntry,
  type StreamEntry,
  writeCarry,
  writeMeta,
  writeStatePut,
} from './entries.ts';
import type { CheckpointWriter } from './index/checkpoint-file.ts';
import type { AccessTokenInfo, BasinConfig, BasinInfo, StreamInfo } from './model.ts';
import { NameIndex } from './name-index.ts';
import type { RecordCommand } from './record-codec.ts';
import { StreamState } from './stream-state.ts';

/** Streams of the engine live here, out of reach of every client: the name is no valid basin name. */
export const INTERNAL_BASIN = '_millrace';

export interface BasinState {
  readonly name: string;
  readonly createdAt: number;
  readonly requestKey: string | null;
  readonly streams: NameIndex<StreamState>;
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
  readonly internal: BasinState = newBasin({
    name: INTERNAL_BASIN,
    config: { defaultStreamConfig: {}, streamCipher: null, createStreamOnAppend: false, createStreamOnRead: false },
    createdAt: 0,
    deletedAt: null,
    requestKey: null,
  });
  readonly streams = new Map<number, StreamState>();
  readonly tokens = new NameIndex<TokenState>();
  readonly tokensByHash = new Map<string, TokenState>();
  readonly table = new NameIndex<Uint8Array>();
  rootHash: string | null = null;
  /** Above every id ever given; ids in flight are counted by the store. */
  nextStreamId = 1;

  basinOf(name: string): BasinState | undefined {
    return name === INTERNAL_BASIN ? this.internal : this.basins.get(name);
  }

  applyMeta(entry: MetaEntry): void {
    switch (entry.type) {
      case 'basin':
        this.#applyBasin(entry);
        return;
      case 'basin-purged':
        this.basins.delete(entry.name);
        return;
      case 'stream':
        this.#applyStream(entry);
        return;
      case 'stream-purged':
        this.#purgeStream(entry.id);
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
    state.tailSeqNum = head.firstSeqNum + head.count;
    state.tailTimestamp = head.lastTimestamp;
    state.lastArrivalMs = head.arrivalMs;
    for (const command of commands) {
      if (command.kind === 'fence') state.fencingToken = command.token;
      else this.applyTrim(state, Math.min(command.trimTo, command.seqNum + 1));
    }
  }

  applyTrim(state: StreamState, seqNum: number): void {
    state.trimPoint = Math.max(state.trimPoint, Math.min(seqNum, state.tailSeqNum));
  }

  applyCarry(state: StreamState, carry: Carry): void {
    state.tailSeqNum = carry.tailSeqNum;
    state.tailTimestamp = carry.tailTimestamp;
    state.trimPoint = carry.trimPoint;
    state.lastArrivalMs = carry.lastArrivalMs;
    state.fencingToken = carry.fencingToken;
    for (let i = 0; i < carry.segments.length; i += 3) {
      state.addSegment(carry.segments[i]!, carry.segments[i + 1]!, carry.segments[i + 2]!);
    }
  }

  /** All of it but the log streams' data-plane state, which their own journal carries. */
  writeTo(checkpoint: CheckpointWriter): void {
    const meta = (entry: MetaEntry) => checkpoint.add((out) => writeMeta(out, entry));
    meta({ type: 'next-stream-id', id: this.nextStreamId });
    if (this.rootHash !== null) meta({ type: 'root', hash: this.rootHash });
    for (const basin of this.basins.values()) meta({ type: 'basin', ...basinEntry(basin) });
    for (const state of this.streams.values()) {
      meta({ type: 'stream', ...state.toEntry() });
      if (!state.log && state.tailSeqNum > 0) checkpoint.add((out) => writeCarry(out, carryOf(state, true)));
    }
    for (const token of this.tokens.values()) meta({ type: 'token', hash: token.hash, info: token.info });
    for (const [key, value] of this.table.after('', undefined)) {
      checkpoint.add((out) => writeStatePut(out, key, value));
    }
  }

  #applyBasin(entry: BasinEntry): void {
    const basin = this.basins.get(entry.name);
    if (basin === undefined) {
      this.basins.set(entry.name, newBasin(entry));
      return;
    }
    basin.config = entry.config;
    basin.deletedAt = entry.deletedAt;
    basin.deleting ||= entry.deletedAt !== null;
  }

  #applyStream(entry: StreamEntry): void {
    const known = this.streams.get(entry.id);
    if (known !== undefined) {
      known.config = entry.config;
      known.deletedAt = entry.deletedAt;
      known.deleting ||= entry.deletedAt !== null;
      return;
    }
    const basin = this.basinOf(entry.basin);
    assert(basin !== undefined, 'a stream is created in a basin that exists');
    assert(basin.streams.get(entry.name) === undefined, 'a name has one incarnation at a time');
    const state = new StreamState(entry);
    this.streams.set(entry.id, state);
    basin.streams.set(entry.name, state);
    this.nextStreamId = Math.max(this.nextStreamId, entry.id + 1);
  }

  #purgeStream(id: number): void {
    const state = this.streams.get(id);
    if (state === undefined) return;
    state.purged = true;
    this.streams.delete(id);
    this.basinOf(state.basin)?.streams.delete(state.name);
  }
}

function newBasin(entry: BasinEntry): BasinState {
  return {
    name: entry.name,
    createdAt: entry.createdAt,
    requestKey: entry.requestKey,
    streams: new NameIndex(),
    config: entry.config,
    deletedAt: entry.deletedAt,
    deleting: entry.deletedAt !== null,
  };
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
