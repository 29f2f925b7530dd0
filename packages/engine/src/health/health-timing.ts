/** When silence becomes a finding. Milliseconds; tests shorten them. The last three are Sequin's. */
export interface HealthTiming {
  /** How often states in memory are looked at. */
  readonly sampleMs: number;
  /** How often the server is asked for its slot and WAL position. */
  readonly probeMs: number;
  /** How often publication and tables are read again. */
  readonly tablesMs: number;
  readonly probeTimeoutMs: number;
  /** Connected, and the server's WAL moves on, but not a byte has come for this long. */
  readonly captureStallMs: number;
  /** There is something to deliver, and the sink has not moved for this long. */
  readonly sinkStallMs: number;
  /** A sink that retries may do so for this long before it is an error and no warning. */
  readonly sinkRetryMs: number;
  readonly firstEventMs: number;
  readonly slotStaleMs: number;
  readonly tablesStaleMs: number;
}

export const HEALTH_TIMING: HealthTiming = {
  sampleMs: 1_000,
  probeMs: 10_000,
  tablesMs: 60_000,
  probeTimeoutMs: 10_000,
  captureStallMs: 30_000,
  sinkStallMs: 60_000,
  sinkRetryMs: 15_000,
  firstEventMs: 5 * 60_000,
  slotStaleMs: 15 * 60_000,
  tablesStaleMs: 30 * 60_000,
};
