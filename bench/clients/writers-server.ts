import type { Usage } from './client.ts';

/** What the measured servers of the writers' section are started with. */
export interface WritersServerInput {
  readonly dir: string;
  readonly basin: string;
  /** Of the peer: files instead of memory. */
  readonly inFiles: boolean;
}

/** From `start` to `end`. */
export type WritersServerResult = Usage;
