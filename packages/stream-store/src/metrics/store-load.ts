/** What a store has in memory at one moment, for /metrics. */
export interface StoreLoad {
  readonly basins: number;
  /** The engine's included. */
  readonly streams: number;
  /** Of those, held as objects: in use, or not yet put back. */
  readonly hydratedStreams: number;
  /** Appends accepted but not yet durable. */
  readonly inflightBytes: number;
  /** Readers waiting at a tail. */
  readonly followers: number;
  /** Streams whose recent batches are kept in memory for followers, and those batches. */
  readonly followedStreams: number;
  readonly ringBytes: number;
}
