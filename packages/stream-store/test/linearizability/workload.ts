import type { Random } from '@millrace/testkit/random';
import type { Call, HistoryRecorder } from './history.ts';
import type { AppendAnswer, Batch, RecordContent, StreamClient } from './stream-client.ts';
import { chainHash, recordHash } from './stream-model.ts';

/** What one client does, as the seed says, with what it has learned so far; recorded call by call. */
export interface WorkloadOptions {
  readonly name: string;
  readonly client: StreamClient;
  readonly recorder: HistoryRecorder;
  readonly random: Random;
  readonly operations: number;
  /** Waited for before each operation: the server may be away. false ends the client. */
  readonly ready: () => Promise<boolean>;
}

const PIPELINE_MAX = 5;
const BATCH_RECORDS_MAX = 4;

export async function runClient(options: WorkloadOptions): Promise<void> {
  const worker = new Worker(options);
  for (let i = 0; i < options.operations; i++) {
    if (!(await options.ready())) return;
    await worker.step();
  }
}

/** A read of the whole stream, as an operation of the history. Returns false when it failed. */
export async function readRecorded(client: StreamClient, name: string, recorder: HistoryRecorder): Promise<boolean> {
  const pending = recorder.call(name, { kind: 'read' });
  const whole = await client.readAll();
  if (whole === null) {
    pending.forgotten();
    return false;
  }
  const records = whole.records.map(contentHash);
  pending.answered({ kind: 'read', tail: whole.tail, hash: chainHash(0, records), records });
  return true;
}

class Worker {
  readonly #options: WorkloadOptions;
  #made = 0;
  #knownTail = 0;
  #knownToken = '';

  constructor(options: WorkloadOptions) {
    this.#options = options;
  }

  async step(): Promise<void> {
    const { client, name, recorder, random } = this.#options;
    const chance = random.next();
    if (chance < 0.45) await this.#append();
    else if (chance < 0.6) await this.#pipeline();
    else if (chance < 0.8) await readRecorded(client, name, recorder);
    else await this.#checkTail();
  }

  async #append(): Promise<void> {
    const { client, random } = this.#options;
    const batch = this.#batch();
    const note = this.#called(batch);
    note(await client.append(batch, random.chance(0.1)));
  }

  async #pipeline(): Promise<void> {
    const { client, random } = this.#options;
    const batches: Batch[] = [];
    const size = 1 + random.integer(PIPELINE_MAX);
    let next = this.#knownTail;
    const conditional = random.chance(0.5);
    for (let i = 0; i < size; i++) {
      const batch = this.#batch();
      // Each on top of the one before it: the first that fails takes the rest with it.
      batches.push(conditional ? { ...batch, matchSeqNum: next } : batch);
      next += batch.records.length;
    }
    const notes = batches.map((batch) => this.#called(batch));
    let lastEnd = 0;
    await client.appendPipelined(batches, (index, answer) => {
      if (answer.kind === 'appended') {
        if (answer.start < lastEnd) throw new Error('acknowledgements of a session are out of order');
        lastEnd = answer.end;
      }
      notes[index]!(answer);
    });
  }

  async #checkTail(): Promise<void> {
    const { client, name, recorder } = this.#options;
    const pending = recorder.call(name, { kind: 'check-tail' });
    const tail = await client.checkTail();
    if (tail === null) return pending.forgotten();
    this.#knownTail = tail;
    pending.answered({ kind: 'tail', tail });
  }

  #batch(): Batch {
    const { name, random } = this.#options;
    const records: RecordContent[] = Array.from({ length: 1 + random.integer(BATCH_RECORDS_MAX) }, () => ({
      body: `${name} ${this.#made++} `.padEnd(20 + random.integer(600), '.'),
    }));
    const chance = random.next();
    if (chance < 0.12) {
      const token = random.chance(0.3) ? '' : `${name} ${random.integer(3)}`;
      records[random.integer(records.length)] = { body: token, isFence: true };
    }
    return {
      records,
      // Mostly what is known to be so; now and then what is not.
      matchSeqNum: random.chance(0.3) ? this.#knownTail + (random.chance(0.1) ? 1 : 0) : undefined,
      fencingToken: random.chance(0.3) ? (random.chance(0.2) ? `${name} stale` : this.#knownToken) : undefined,
    };
  }

  #called(batch: Batch): (answer: AppendAnswer) => void {
    const { name, recorder } = this.#options;
    const setsToken = batch.records.findLast(({ isFence }) => isFence === true)?.body;
    const call: Call = {
      kind: 'append',
      records: batch.records.map(contentHash),
      matchSeqNum: batch.matchSeqNum,
      fencingToken: batch.fencingToken,
      setsToken,
    };
    const pending = recorder.call(name, call);
    return (answer) => {
      switch (answer.kind) {
        case 'appended':
          if (answer.end !== answer.start + batch.records.length)
            throw new Error('an append got other numbers than it has records');
          if (answer.tail < answer.end) throw new Error('the tail of an acknowledgement is before its end');
          this.#knownTail = answer.tail;
          if (setsToken !== undefined) this.#knownToken = setsToken;
          return pending.answered({ kind: 'appended', startSeqNum: answer.start });
        case 'fencing-token-mismatch':
          this.#knownToken = answer.actual;
          return pending.answered({ kind: 'fencing-token-mismatch', actual: answer.actual });
        case 'seq-num-mismatch':
          this.#knownTail = answer.next;
          return pending.answered({ kind: 'seq-num-mismatch', next: answer.next });
        case 'refused':
          return pending.forgotten();
        case 'unknown':
          return pending.answered({ kind: 'unknown' });
      }
    };
  }
}

function contentHash({ body, isFence }: RecordContent): number {
  return recordHash(`${isFence === true ? 'fence' : 'record'} ${body}`);
}
