/**
 * A second place where what a journal writes becomes durable, before it is told (mode `bucket` of the object storage).
 * A port; null: the directory is where it is durable. Calls come one at a time, in the order of the journal.
 */
export interface JournalReplica {
  /**
   * Bytes of the journal from (segment, offset) on; offset 0 begins the segment, with its header. Resolves when they are
   * durable. A rejection is final, as that of a failed sync: the journal is dead and nothing is told any more.
   */
  write(segment: number, offset: number, parts: readonly Uint8Array[]): Promise<void>;
  /** Resolves when the next write may begin: what is staged until then goes along with it. */
  pace(): Promise<void>;
}
