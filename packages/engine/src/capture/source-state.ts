/**
 * What is kept about a source in the state table: which slot of which server the change log comes from and how far it
 * was acknowledged, the slot that is about to be made, and the repairs that were tried.
 */
import { createHash, randomBytes } from 'node:crypto';
import type { Lsn } from '@millrace/core/lsn';
import type { StateTable } from '@millrace/stream-store/store';

export interface SourceIdentity {
  readonly systemId: string;
  readonly timeline: number;
  readonly slot: string;
  /** What it was captured through; empty in what earlier versions wrote. */
  readonly publication: string;
  readonly acknowledged: Lsn;
  /** Records that were durable in the change log when this was written. */
  readonly logRecords: number;
  /** Where the slot stood when streaming last began. */
  readonly slotConfirmed: Lsn;
}

/** Written before a slot is made: one that is found without a settled identity is then known to be ours. */
export interface SlotIntent {
  readonly systemId: string;
  readonly slot: string;
  /** End of the WAL then; the slot can only begin after it. */
  readonly after: Lsn;
  /** It stands where it may be read from (slot-settling.ts): what comes after is not to be skipped. */
  readonly settled?: boolean | undefined;
}

export interface RepairRecord {
  /** The name of the slot that was lost. */
  readonly slot: string;
  /** When each attempt began, milliseconds since the epoch, oldest first. */
  readonly attempts: readonly number[];
  /** Commit LSN of the last difference a repair appended, or was about to: no server can send that one again. */
  readonly appended: Lsn;
}

export class SourceState {
  readonly #state: StateTable;
  readonly #key: string;
  #identity: SourceIdentity | null;

  constructor(state: StateTable, key: string) {
    this.#state = state;
    this.#key = key;
    const stored = state.get(key);
    this.#identity = stored === undefined ? null : parseIdentity(stored);
  }

  get identity(): SourceIdentity | null {
    return this.#identity;
  }

  async save(identity: SourceIdentity): Promise<void> {
    this.#identity = identity;
    const { acknowledged, slotConfirmed } = identity;
    const json = { ...identity, acknowledged: String(acknowledged), slotConfirmed: String(slotConfirmed) };
    await this.#state.put(this.#key, encode(json));
  }

  get intent(): SlotIntent | null {
    const stored = this.#state.get(`${this.#key}/intent`);
    if (stored === undefined) return null;
    const json = decode(stored) as Omit<SlotIntent, 'after'> & { after: string };
    return { ...json, after: BigInt(json.after) };
  }

  async saveIntent(intent: SlotIntent): Promise<void> {
    await this.#state.put(`${this.#key}/intent`, encode({ ...intent, after: String(intent.after) }));
  }

  async forgetIntent(): Promise<void> {
    if (this.intent !== null) await this.#state.delete(`${this.#key}/intent`);
  }

  get repairs(): RepairRecord {
    const stored = this.#state.get(`${this.#key}/repairs`);
    if (stored === undefined) return { slot: '', attempts: [], appended: 0n };
    const json = decode(stored) as Omit<RepairRecord, 'appended'> & { appended: string };
    return { ...json, appended: BigInt(json.appended) };
  }

  async saveRepairs(record: RepairRecord): Promise<void> {
    await this.#state.put(`${this.#key}/repairs`, encode({ ...record, appended: String(record.appended) }));
  }

  /**
   * The name our walsender bears in pg_stat_activity. Whoever finds it there later, with this state in hand, is the
   * same installation, and nobody else is.
   */
  async applicationName(source: string): Promise<string> {
    let stored = this.#state.get('installation');
    if (stored === undefined) {
      stored = Buffer.from(randomBytes(8).toString('hex'));
      await this.#state.put('installation', stored);
    }
    const database = createHash('sha256').update(source).digest('hex').slice(0, 8);
    return `millrace ${Buffer.from(stored).toString()}-${database}`;
  }
}

function parseIdentity(bytes: Uint8Array): SourceIdentity {
  // publication, logRecords and slotConfirmed are absent in what earlier versions wrote.
  const json = decode(bytes) as { systemId: string; timeline: number; slot: string; acknowledged: string } & {
    publication?: string;
    logRecords?: number;
    slotConfirmed?: string;
  };
  const { systemId, timeline, slot, publication = '', acknowledged, logRecords = 0, slotConfirmed = '0' } = json;
  return {
    systemId,
    timeline,
    slot,
    publication,
    acknowledged: BigInt(acknowledged),
    logRecords,
    slotConfirmed: BigInt(slotConfirmed),
  };
}

function encode(json: object): Uint8Array {
  return Buffer.from(JSON.stringify(json));
}

function decode(bytes: Uint8Array): unknown {
  return JSON.parse(Buffer.from(bytes).toString());
}
