/** Time comes in as an argument wherever it decides something, so that tests can hold it. */
export interface Clock {
  /** Milliseconds since the epoch. May jump, in both directions. */
  now(): number;
}

export const systemClock: Clock = { now: Date.now };
