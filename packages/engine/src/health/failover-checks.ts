/** Whether a standby could be promoted without losing the slot, asked every so often where standbys are configured. */
import { pause } from '@millrace/core/pause';
import { type Check, check, type Finding } from './finding.ts';

export interface FailoverLook {
  readonly safe: boolean;
  readonly problems: readonly { readonly text: string; readonly fix: string }[];
  readonly standbys: readonly {
    readonly host: string;
    readonly port: number;
    readonly safe: boolean;
    readonly problems: readonly { readonly text: string; readonly fix: string }[];
  }[];
}

export interface FailoverWatch {
  /** null: not asked yet, or the question failed. */
  readonly look: FailoverLook | null;
  stop(): Promise<void>;
}

export function watchFailover(ask: () => Promise<FailoverLook>, intervalMs: number): FailoverWatch {
  const stopping = new AbortController();
  let look: FailoverLook | null = null;
  const loop = async () => {
    while (!stopping.signal.aborted) {
      look = await ask().catch(() => null);
      await pause(intervalMs, stopping.signal);
    }
  };
  const done = loop();
  return {
    get look() {
      return look;
    },
    async stop() {
      stopping.abort();
      await done;
    },
  };
}

/** A warning at most: changes flow, only a failover would lose some. */
export function failoverChecks(look: FailoverLook | null): Check[] {
  if (look === null || look.safe) return [check('failover_readiness', 'Failover readiness', [])];
  const all = [
    ...look.problems,
    ...look.standbys.flatMap(({ host, port, problems }) =>
      problems.map(({ text, fix }) => ({ text: `Standby ${host}:${port}: ${text}`, fix })),
    ),
  ];
  const findings = all.map(
    ({ text, fix }): Finding => ({ slug: 'failover_not_ready', severity: 'warning', text, fix }),
  );
  return [check('failover_readiness', 'Failover readiness', findings, 'warning')];
}
