/** What a delivery has done since it was started, for metrics. Only ever grows. */
export interface DeliveryCounts {
  delivered: number;
  requests: number;
  /** As `sizeOf` of the sink has it. */
  bytes: number;
  /** Tries that failed, and tries that were not the first. */
  failed: number;
  retried: number;
  deadLettered: number;
  discarded: number;
  skipped: number;
  truncated: number;
  /** How often the whole destination was found to be away. */
  outages: number;
}

export function noCounts(): DeliveryCounts {
  return {
    delivered: 0,
    requests: 0,
    bytes: 0,
    failed: 0,
    retried: 0,
    deadLettered: 0,
    discarded: 0,
    skipped: 0,
    truncated: 0,
    outages: 0,
  };
}
