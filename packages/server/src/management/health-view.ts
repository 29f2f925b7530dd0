/** Health and lag as the API shows them: Sequin's shape, with slugs, findings and their fixes besides. */
import type { Lag } from '@millrace/engine/health/commit-history';
import type { EntityHealth } from '@millrace/engine/health/finding';
import { ignoresHealth } from '../ignored-health.ts';

export interface HealthView {
  readonly name: string;
  readonly status: string;
  /** It does not count for `/ready`. */
  readonly ignored?: true;
  readonly checks: readonly CheckView[];
}

export interface CheckView {
  readonly slug: string;
  readonly name: string;
  readonly status: string;
  /** The worst finding, where there is one. */
  readonly error?: FindingView;
  readonly findings: readonly FindingView[];
}

export interface FindingView {
  readonly slug: string;
  readonly severity: string;
  readonly summary: string;
  readonly fix?: string;
  readonly code?: string;
}

export interface LagView {
  /** Decimal text: may be beyond 2^53. */
  readonly bytes: string;
  readonly transactions: number | null;
  readonly seconds: number | null;
}

export function healthView(
  { name, status, checks }: EntityHealth,
  config: Parameters<typeof ignoresHealth>[0] | undefined,
): HealthView {
  return {
    name,
    status,
    ...(config !== undefined && ignoresHealth(config) && { ignored: true as const }),
    checks: checks.map((check) => {
      const findings = check.findings.map(({ slug, severity, text, fix, code }) => ({
        slug,
        severity,
        summary: text,
        ...(fix !== undefined && { fix }),
        ...(code !== undefined && { code }),
      }));
      const error = findings.find(({ severity }) => severity === 'error');
      return {
        slug: check.slug,
        name: check.name,
        status: check.status,
        ...(error !== undefined && { error }),
        findings,
      };
    }),
  };
}

export function lagView({ bytes, transactions, seconds }: Lag): LagView {
  return { bytes: String(bytes), transactions, seconds: seconds === null ? null : Math.round(seconds * 1000) / 1000 };
}
