/**
 * What health consists of: an entity (a database, a sink) has a fixed list of checks, a check has a status and the
 * findings behind it, and a finding says what is wrong and how to mend it. Names, slugs and statuses are Sequin's where
 * Sequin has them.
 */

/** From good to bad; see SEVERITY. */
export type CheckStatus = 'healthy' | 'notice' | 'paused' | 'waiting' | 'initializing' | 'warning' | 'stale' | 'error';

export type Severity = 'notice' | 'warning' | 'error';

export interface Finding {
  /** Stable: scripts and alerts may depend on it. */
  readonly slug: string;
  readonly severity: Severity;
  /** One or two sentences: names and numbers, never a row value or a secret (I11). */
  readonly text: string;
  /** The SQL or command that mends it, or what to do. */
  readonly fix?: string | undefined;
  /** Of the error behind it; see docs/errors.md. */
  readonly code?: string | undefined;
}

export interface Check {
  readonly slug: string;
  readonly name: string;
  readonly status: CheckStatus;
  readonly findings: readonly Finding[];
}

export interface EntityHealth {
  readonly name: string;
  readonly status: CheckStatus;
  readonly checks: readonly Check[];
}

/** How bad a status is: the worst check is the entity's. */
const SEVERITY: Readonly<Record<CheckStatus, number>> = {
  healthy: 0,
  notice: 1,
  paused: 2,
  waiting: 3,
  initializing: 4,
  warning: 5,
  stale: 6,
  error: 7,
};

export function worst(statuses: readonly CheckStatus[]): CheckStatus {
  let found: CheckStatus = 'healthy';
  for (const status of statuses) if (SEVERITY[status] > SEVERITY[found]) found = status;
  return found;
}

/** A check whose status is the worst of what is known of it and what was found. */
export function check(
  slug: string,
  name: string,
  findings: readonly Finding[],
  status: CheckStatus = 'healthy',
): Check {
  return { slug, name, status: worst([status, ...findings.map(({ severity }) => severity)]), findings };
}

/** A sink that waits for its first message is well, and so is one that somebody paused. */
export function entityHealth(name: string, checks: readonly Check[], paused = false): EntityHealth {
  const status = worst(checks.map((one) => one.status));
  const calm = status === 'healthy' || status === 'notice' || status === 'waiting' || status === 'initializing';
  return { name, status: paused && calm ? 'paused' : status === 'notice' ? 'healthy' : status, checks };
}
