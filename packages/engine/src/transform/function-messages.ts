/** What the pool and its threads say to each other, and how what became of messages is packed. */
import type { CodeType } from './function-source.ts';
import type { SandboxAnswer, SandboxFailure, SandboxFunctions, SandboxLimits } from './sandbox.ts';

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
      /** Bodies back to back. */
      readonly bytes: ArrayBuffer;
      /** Where each body ends in `bytes`. */
      readonly ends: Int32Array;
      /** Stop after the message that ends later than this. */
      readonly sliceMs: number;
    };

export interface LoadFailure {
  readonly type: CodeType;
  readonly failure: SandboxFailure;
}

/** Messages to run functions on: bodies back to back. It is not to be changed before the run has ended. */
export interface RunInput {
  readonly bytes: Buffer;
  /** Where each body ends. */
  readonly ends: Int32Array;
  /** Messages [from, to) of it. */
  readonly from: number;
  readonly to: number;
}

export interface RunPart {
  readonly kind: 'part';
  readonly run: number;
  readonly count: number;
  /** For each message what became of it, then what that says: see PartWriter. */
  readonly codes: Int32Array;
  /** Routes, bodies and failures, in order. */
  readonly out: ArrayBuffer;
  /** How long each message took. */
  readonly micros: Float32Array;
  /** Nothing more comes of this run. */
  readonly last: boolean;
}

export type FunctionAnswer =
  | { readonly kind: 'loaded'; readonly sandbox: number; readonly failure: LoadFailure | null }
  | RunPart;

/** Shared with the pool: what a thread works on, so that one that hangs is told from one that has much to do. */
export const PROGRESS = { steps: 0, run: 1, message: 2, length: 3 } as const;

/** What the thread is started with. */
export interface FunctionWorkerData {
  readonly progress: SharedArrayBuffer;
  readonly lowPriority: boolean;
}
/** In place of the number of a run. */
export const IDLE = -1;
export const LOADING = -2;

const FILTERED = 0;
/** Then: bytes of the route, -1 without a routing function. */
const UNTOUCHED = 1;
/** Then: bytes of the route or -1, how many messages, and the bytes of each. */
const MADE = 2;
/** Then: bytes of the failure as JSON. */
const FAILED = 3;

const LF = 0x0a;

/** What became of a message. */
export type RunOutcome =
  | { readonly kind: 'filtered'; readonly micros: number }
  /** `route` is JSON; null: there is no routing function. */
  | { readonly kind: 'untouched'; readonly route: string | null; readonly micros: number }
  | {
      readonly kind: 'made';
      readonly route: string | null;
      readonly bodies: readonly Buffer[];
      readonly micros: number;
    }
  | { readonly kind: 'failed'; readonly failure: SandboxFailure; readonly micros: number };

/** What became of messages one after the other. */
export class PartWriter {
  count = 0;
  length = 0;
  #out = Buffer.allocUnsafeSlow(64 * 1024);
  readonly #codes: number[] = [];
  readonly #micros: number[] = [];

  add(answer: SandboxAnswer | SandboxFailure, micros: number): void {
    this.count++;
    this.#micros.push(micros);
    const codes = this.#codes;
    switch (answer.kind) {
      case 'filtered':
        codes.push(FILTERED);
        return;
      case 'untouched':
        codes.push(UNTOUCHED, answer.routeEnd === 0 ? -1 : answer.routeEnd);
        this.#append(answer.bytes, 0, answer.routeEnd);
        return;
      case 'made':
        this.#addMade(answer);
        return;
      default: {
        const json = Buffer.from(JSON.stringify(answer));
        codes.push(FAILED, json.length);
        this.#append(json, 0, json.length);
      }
    }
  }

  #addMade({ bytes, routeEnd }: SandboxAnswer): void {
    const codes = this.#codes;
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

  finish(run: number, last: boolean): RunPart {
    const out = this.#out.buffer as ArrayBuffer;
    const codes = Int32Array.from(this.#codes);
    return { kind: 'part', run, count: this.count, codes, out, micros: Float32Array.from(this.#micros), last };
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

/** The bodies are views of the part's memory. */
export function readPart({ count, codes, out, micros }: RunPart): RunOutcome[] {
  const bytes = Buffer.from(out);
  const outcomes: RunOutcome[] = [];
  let code = 0;
  let at = 0;
  const take = (size: number) => bytes.subarray(at, (at += size));
  const takeRoute = () => {
    const size = codes[code++]!;
    return size < 0 ? null : take(size).toString('utf8');
  };
  for (let i = 0; i < count; i++) {
    const took = micros[i]!;
    switch (codes[code++]) {
      case FILTERED:
        outcomes.push({ kind: 'filtered', micros: took });
        break;
      case UNTOUCHED:
        outcomes.push({ kind: 'untouched', route: takeRoute(), micros: took });
        break;
      case MADE: {
        const route = takeRoute();
        const bodies: Buffer[] = [];
        for (let left = codes[code++]!; left > 0; left--) bodies.push(take(codes[code++]!));
        outcomes.push({ kind: 'made', route, bodies, micros: took });
        break;
      }
      default: {
        const failure = JSON.parse(take(codes[code++]!).toString('utf8')) as SandboxFailure;
        outcomes.push({ kind: 'failed', failure, micros: took });
      }
    }
  }
  return outcomes;
}
