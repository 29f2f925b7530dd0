/**
 * The thread that functions run in: sandboxes by number, batches of messages in, what became of them out. It answers in
 * parts while it works, so that little is lost when a sandbox hangs and the thread has to be ended from outside.
 */
import { parentPort, workerData } from 'node:worker_threads';
import { assert } from '@millrace/core/assert';
import type { CodeType } from './function-source.ts';
import { Sandbox, type SandboxFailure, type SandboxFunctions, type SandboxLimits } from './sandbox.ts';

export type FunctionRequest =
  | {
      readonly kind: 'load';
      readonly sandbox: number;
      readonly functions: SandboxFunctions;
      readonly limits: SandboxLimits;
    }
  | { readonly kind: 'drop'; readonly sandbox: number }
  | {
      readonly kind: 'run';
      readonly run: number;
      readonly sandbox: number;
      /** Bodies back to back; comes back with the last part. */
      readonly bytes: ArrayBuffer;
      /** Where each body ends in `bytes`. */
      readonly ends: Int32Array;
      /** Stop after the message that ends later than this. */
      readonly sliceMs: number;
      /** Report how long each message took. */
      readonly timed: boolean;
    };

export interface LoadFailure {
  readonly type: CodeType;
  readonly failure: SandboxFailure;
}

export type FunctionAnswer =
  | { readonly kind: 'loaded'; readonly sandbox: number; readonly failure: LoadFailure | null }
  | {
      readonly kind: 'part';
      readonly run: number;
      /** For each message its code, then what the code says (see encode below). */
      readonly codes: Int32Array;
      readonly count: number;
      /** Routes, bodies and failures, in order. */
      readonly out: ArrayBuffer;
      readonly micros: Float64Array | null;
      /** The last part has what the request had. */
      readonly input: ArrayBuffer | null;
    };

/** Shared with the pool: who works on what, so that a thread that hangs can be told from one that has much to do. */
export const PROGRESS = { steps: 0, run: 1, message: 2, length: 3 } as const;
export const NO_RUN = -1;

export const FILTERED = 0;
/** Then: bytes of the route, -1 without a routing function. */
export const UNTOUCHED = 1;
/** Then: bytes of the route or -1, how many messages, and the bytes of each. */
export const MADE = 2;
/** Then: bytes of the failure as JSON. */
export const FAILED = 3;

/** A part is sent when it holds so much, or so much time has passed. */
const PART_BYTES = 512 * 1024;
const PART_MS = 20;

const port = parentPort;
assert(port !== null, 'functions run in a thread of their own');
const progress = new Int32Array((workerData as { progress: SharedArrayBuffer }).progress);
const sandboxes = new Map<number, Sandbox>();
/** Loading is not done in one turn, and requests are answered in their order. */
let turn: Promise<void> = Promise.resolve();

useUtc();
port.on('message', (request: FunctionRequest) => {
  turn = turn.then(() => handle(request));
});

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
      Atomics.add(progress, PROGRESS.steps, 1);
      const failure = await sandbox.open();
      Atomics.add(progress, PROGRESS.steps, 1);
      if (failure === null) sandboxes.set(request.sandbox, sandbox);
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
  let part = new Part(request.timed);
  let sent = begun;
  Atomics.store(progress, PROGRESS.run, request.run);
  for (let i = 0; i < ends.length; i++) {
    if (!sandbox.isOpen) {
      const failure = await sandbox.open();
      assert(failure === null, 'functions that could be loaded can be loaded again');
    }
    Atomics.store(progress, PROGRESS.message, i);
    Atomics.add(progress, PROGRESS.steps, 1);
    part.add(sandbox, body, i === 0 ? 0 : ends[i - 1]!, ends[i]!);
    const now = performance.now();
    if (now - begun > sliceMs) break;
    if (part.length < PART_BYTES && now - sent < PART_MS) continue;
    if (i === ends.length - 1) break;
    send(request.run, part, null);
    part = new Part(request.timed);
    sent = now;
  }
  Atomics.store(progress, PROGRESS.run, NO_RUN);
  send(request.run, part, bytes);
}

function send(run: number, part: Part, input: ArrayBuffer | null): void {
  const { out, codes, micros } = part.finish();
  const transfer = [out, ...(input === null ? [] : [input])];
  answer({ kind: 'part', run, codes, count: part.count, out, micros, input }, transfer);
}

function answer(message: FunctionAnswer, transfer: ArrayBuffer[] = []): void {
  port!.postMessage(message, transfer);
}

/** What became of messages one after the other. */
class Part {
  count = 0;
  length = 0;
  #out = Buffer.allocUnsafeSlow(64 * 1024);
  readonly #codes: number[] = [];
  readonly #micros: number[] | null;

  constructor(timed: boolean) {
    this.#micros = timed ? [] : null;
  }

  add(sandbox: Sandbox, body: Buffer, start: number, end: number): void {
    const before = this.#micros === null ? 0 : performance.now();
    const answer = sandbox.run(body, start, end);
    this.#micros?.push((performance.now() - before) * 1000);
    this.count++;
    const codes = this.#codes;
    if (!('bytes' in answer)) {
      const json = Buffer.from(JSON.stringify(answer));
      codes.push(FAILED, json.length);
      this.#append(json, 0, json.length);
      return;
    }
    const { kind, bytes, routeEnd } = answer;
    switch (kind) {
      case 'filtered':
        codes.push(FILTERED);
        return;
      case 'untouched':
        codes.push(UNTOUCHED, routeEnd === 0 ? -1 : routeEnd);
        this.#append(bytes, 0, routeEnd);
        return;
      case 'made': {
        codes.push(MADE, routeEnd === 0 ? -1 : routeEnd);
        this.#append(bytes, 0, routeEnd);
        const countAt = codes.push(0) - 1;
        let at = routeEnd;
        while (at < bytes.length) {
          const next = bytes.indexOf(LF, at + 1);
          const to = next < 0 ? bytes.length : next;
          codes.push(to - at - 1);
          codes[countAt]!++;
          this.#append(bytes, at + 1, to);
          at = to;
        }
      }
    }
  }

  finish(): { out: ArrayBuffer; codes: Int32Array; micros: Float64Array | null } {
    const out = this.#out.buffer as ArrayBuffer;
    const codes = Int32Array.from(this.#codes);
    return { out: out, codes, micros: this.#micros === null ? null : Float64Array.from(this.#micros) };
  }

  #append(bytes: Buffer, start: number, end: number): void {
    const size = end - start;
    if (this.length + size > this.#out.length) {
      const larger = Buffer.allocUnsafeSlow(Math.max(this.length + size, 2 * this.#out.length));
      this.#out.copy(larger, 0, 0, this.length);
      this.#out = larger;
    }
    bytes.copy(this.#out, this.length, start, end);
    this.length += size;
  }
}

const LF = 0x0a;
