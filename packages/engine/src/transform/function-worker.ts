/**
 * The thread that functions run in: sandboxes by number, batches of messages in, what became of them out. It answers in
 * parts while it works, so that little is lost when a sandbox hangs and the thread has to be ended from outside.
 */
import { setPriority } from 'node:os';
import { parentPort, workerData } from 'node:worker_threads';
import { assert } from '@millrace/core/assert';
import {
  type FunctionAnswer,
  type FunctionRequest,
  type FunctionWorkerData,
  IDLE,
  LOADING,
  PartWriter,
  PROGRESS,
} from './function-messages.ts';
import { Sandbox } from './sandbox.ts';

/** A part is sent when it holds so much, or so much time has passed. */
const PART_BYTES = 512 * 1024;
const PART_MS = 20;
/** Of `nice`: a tenth of what others get. With less its calls would run out of time on a machine that is busy for long. */
const LOW_PRIORITY = 10;

const port = parentPort;
assert(port !== null, 'functions run in a thread of their own');
const started = workerData as FunctionWorkerData;
const progress = new Int32Array(started.progress);
const sandboxes = new Map<number, Sandbox>();
/** Opening a sandbox takes several turns, and requests are answered in their order. */
let turn: Promise<void> = Promise.resolve();

if (started.lowPriority) giveWay();
useUtc();
port.on('message', (request: FunctionRequest) => {
  turn = turn.then(() => handle(request));
});

/** Of this thread only, which is how Linux takes it; elsewhere it would be the whole process. */
function giveWay(): void {
  if (process.platform === 'linux') setPriority(LOW_PRIORITY);
}

/** The library asks this realm for the time zone of dates. */
function useUtc(): void {
  const dates = Date.prototype;
  dates.getTimezoneOffset = () => 0;
  for (const part of ['Hours', 'Minutes', 'Seconds', 'Date', 'Month', 'FullYear', 'Day'] as const) {
    dates[`get${part}`] = dates[`getUTC${part}`];
  }
}

async function handle(request: FunctionRequest): Promise<void> {
  switch (request.kind) {
    case 'load': {
      const sandbox = new Sandbox(request.functions, request.limits);
      sandboxes.set(request.sandbox, sandbox);
      step(LOADING, 0);
      const failure = await sandbox.open();
      step(IDLE, 0);
      answer({ kind: 'loaded', sandbox: request.sandbox, failure });
      return;
    }
    case 'drop':
      sandboxes.delete(request.sandbox);
      return;
    case 'run':
      await run(request);
  }
}

async function run(request: FunctionRequest & { kind: 'run' }): Promise<void> {
  const { bytes, ends, sliceMs } = request;
  const sandbox = sandboxes.get(request.sandbox);
  assert(sandbox !== undefined, 'a sandbox is loaded before it is called');
  const body = Buffer.from(bytes);
  const begun = performance.now();
  let part = new PartWriter();
  let sent = begun;
  let before = begun;
  for (let i = 0; i < ends.length; i++) {
    step(request.run, i);
    const start = i === 0 ? 0 : ends[i - 1]!;
    const problem = sandbox.isOpen ? null : await sandbox.open();
    if (problem !== null) {
      part.add(problem.failure, 0);
      break;
    }
    const wasFresh = sandbox.isFresh;
    let outcome = sandbox.run(body, start, ends[i]!);
    if (outcome.kind === 'memory' && !wasFresh) {
      // What earlier messages left behind is not this one's.
      outcome = (await sandbox.open())?.failure ?? sandbox.run(body, start, ends[i]!);
    }
    const now = performance.now();
    part.add(outcome, (now - before) * 1000);
    before = now;
    if (now - begun > sliceMs) break;
    if ((part.length < PART_BYTES && now - sent < PART_MS) || i === ends.length - 1) continue;
    send(part.finish(request.run, false));
    part = new PartWriter();
    sent = now;
  }
  step(IDLE, 0);
  send(part.finish(request.run, true));
}

function step(run: number, message: number): void {
  Atomics.store(progress, PROGRESS.run, run);
  Atomics.store(progress, PROGRESS.message, message);
  Atomics.add(progress, PROGRESS.steps, 1);
}

function send(part: ReturnType<PartWriter['finish']>): void {
  answer(part, [part.out]);
}

function answer(message: FunctionAnswer, transfer: ArrayBuffer[] = []): void {
  port!.postMessage(message, transfer);
}
