/** Workers of a `sequin_stream` sink: they receive over HTTP, keep what they got, and acknowledge most of it. */
import { setTimeout as delay } from 'node:timers/promises';
import type { Message, Whereabouts } from './destinations.ts';
import type { KeyedChange } from './keyed-workload.ts';

export interface Workers {
  /** In the order in which workers got them. */
  readonly received: readonly KeyedChange[];
  /** What came again although its acknowledgement had been answered. */
  readonly problems: readonly string[];
  stop(): Promise<void>;
}

export interface WorkersOptions {
  readonly sink: string;
  readonly whereabouts: Whereabouts;
  readonly workers: number;
  readonly changeOf: (message: Message) => KeyedChange;
}

interface Received {
  readonly ack_id: string;
  readonly data: Message;
}

const BATCH = 10;
const WAIT_MS = 300;
const AWAY_MS = 50;
/** Of every so many batches a worker gives one back. */
const GIVEN_BACK_EVERY = 20;

export function startWorkers({ sink, whereabouts, workers, changeOf }: WorkersOptions): Workers {
  const received: KeyedChange[] = [];
  const done = new Set<string>();
  const problems: string[] = [];
  let stopped = false;
  let batches = 0;

  /** null: Millrace is not there, or went away before it answered. */
  async function ask(path: string, body: object): Promise<Record<string, unknown> | null> {
    const at = whereabouts();
    if (at === null) return null;
    try {
      const answer = await fetch(`${at.url}/api/sequin_streams/${sink}/${path}`, {
        method: 'POST',
        headers: { authorization: `Bearer ${at.token}`, 'content-type': 'application/json' },
        body: JSON.stringify(body),
        signal: AbortSignal.timeout(10_000),
      });
      return answer.ok ? ((await answer.json()) as Record<string, unknown>) : null;
    } catch {
      return null;
    }
  }

  async function work(): Promise<void> {
    while (!stopped) {
      const answer = await ask('receive', { max_batch_size: BATCH, wait_for: WAIT_MS });
      if (answer === null) {
        await delay(AWAY_MS);
        continue;
      }
      const batch = answer['data'] as Received[];
      if (batch.length === 0) continue;
      const names = batch.map(({ data }) => {
        const change = changeOf(data);
        const name = `${change.id} ${change.action} ${change.v}`;
        if (done.has(name)) problems.push(`${name} came again after its acknowledgement had been answered`);
        received.push(change);
        return name;
      });
      const ackIds = batch.map(({ ack_id }) => ack_id);
      if (++batches % GIVEN_BACK_EVERY === 0) {
        await ask('nack', { ack_ids: ackIds });
        continue;
      }
      const acknowledged = await ask('ack', { ack_ids: ackIds });
      if (acknowledged?.['success'] === true) for (const name of names) done.add(name);
    }
  }

  const working = Promise.all(Array.from({ length: workers }, work));
  return {
    received,
    problems,
    async stop() {
      stopped = true;
      await working;
    },
  };
}
