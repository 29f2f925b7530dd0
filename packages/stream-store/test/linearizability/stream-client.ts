/** One client of one stream, over HTTP or in the process. The contract that workload.ts is written against. */

export interface RecordContent {
  readonly body: string;
  /** A fence command: the body is the token. */
  readonly isFence?: boolean | undefined;
}

export interface Batch {
  readonly records: readonly RecordContent[];
  readonly matchSeqNum?: number | undefined;
  readonly fencingToken?: string | undefined;
}

export type AppendAnswer =
  | { readonly kind: 'appended'; readonly start: number; readonly end: number; readonly tail: number }
  | { readonly kind: 'fencing-token-mismatch'; readonly actual: string }
  | { readonly kind: 'seq-num-mismatch'; readonly next: number }
  /** With a code that promises no side effects, or never sent. */
  | { readonly kind: 'refused' }
  | { readonly kind: 'unknown' };

export interface WholeStream {
  /** From sequence number 0 on, dense. */
  readonly records: readonly RecordContent[];
  readonly tail: number;
}

export interface StreamClient {
  /** Never rejects. `impatient`: the client goes away before it can have the answer, mostly. */
  append(batch: Batch, impatient: boolean): Promise<AppendAnswer>;
  /** All sent at once. `answer` is called once for each, in order, before the promise resolves. */
  appendPipelined(batches: readonly Batch[], answer: (index: number, answer: AppendAnswer) => void): Promise<void>;
  /** null: it failed. Rejects when what came is no stream: gaps, other numbers than asked for. */
  readAll(): Promise<WholeStream | null>;
  checkTail(): Promise<number | null>;
  close(): void;
}
