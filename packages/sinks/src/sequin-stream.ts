/** Nothing is sent: workers come for messages over HTTP, and acknowledge them (pull/pull-sink.ts). */
import * as z from 'zod';
import type { PullRoute } from './pull/pull-sink.ts';
import type { SinkKind } from './sink-kind.ts';

export type SequinStreamConfig = z.output<typeof schema>;

/** Sequin shows 20, and holds nobody to it. */
const WAITING_DEFAULT = 1_000;

const schema = z.strictObject({
  type: z.literal('sequin_stream'),
  max_waiting: z
    .int('must be a whole number')
    .min(1, 'must be from 1 to 100000')
    .max(100_000, 'must be from 1 to 100000')
    .default(WAITING_DEFAULT)
    .describe('Receives that may wait for messages at once. One more is answered 429.'),
});

export const sequinStreamKind: SinkKind<SequinStreamConfig, PullRoute> = {
  type: 'sequin_stream',
  title: 'Sequin Stream',
  summary: 'Workers receive changes over HTTP and acknowledge them, as with a queue.',
  schema,
  routing: null,
  // Of what the engine hands over; how many a worker gets at once, it says itself.
  batchSize: { default: 1, max: 1000 },
  batchTimeoutMs: 0,
  route: () => ({}),
  checkRoute: () => NO_ROUTE,

  async open({ max_waiting: waitingMax }, { name, timeoutMs, pullSinks }) {
    const { PullSink } = await import('./pull/pull-sink.ts');
    return new PullSink({
      ackWaitMs: timeoutMs,
      waitingMax,
      onLedger: (sink) => pullSinks?.add(name, sink),
      onClose: (sink) => pullSinks?.remove(name, sink),
    });
  },

  example: { type: 'sequin_stream' },
};

const NO_ROUTE: PullRoute = {};
