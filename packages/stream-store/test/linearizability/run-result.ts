import { checkLinearizable } from './checker.ts';
import type { HistoryRecorder, Operation } from './history.ts';

/** What a run came to, for a test and for the campaign's report. */
export interface RunResult {
  /** What is wrong; empty when nothing is. */
  readonly problems: readonly string[];
  readonly calls: number;
  /** Appends whose outcome no client ever learned. */
  readonly unknown: number;
  readonly crashes: number;
}

/** Judges the history of each stream by itself: linearizability of the parts is that of the whole. */
export function judge(histories: ReadonlyMap<string, HistoryRecorder>, crashes: number): RunResult {
  const problems: string[] = [];
  let calls = 0;
  let unknown = 0;
  for (const [stream, recorder] of histories) {
    const { operations } = recorder;
    calls += recorder.calls;
    unknown += operations.filter(({ outcome }) => outcome.kind === 'unknown').length;
    const verdict = checkLinearizable(operations);
    if (verdict.kind === 'linearizable') continue;
    const lines = verdict.kind === 'violation' ? verdict.before.map((state) => JSON.stringify(state)) : [];
    problems.push(
      [`${stream}: ${verdict.kind} at ${show(verdict.operation)}`, 'states before:', ...lines, 'around it:']
        .concat(operations.filter((operation) => isNear(operation, verdict.operation)).map(show))
        .join('\n  '),
    );
  }
  return { problems, calls, unknown, crashes };
}

const NEAR = 40;

function isNear(operation: Operation, { calledAt }: Operation): boolean {
  return operation.calledAt > calledAt - NEAR && operation.calledAt < calledAt + NEAR / 2;
}

function show({ client, call, calledAt, answeredAt, outcome }: Operation): string {
  const asked = call.kind === 'append' ? { ...call, records: call.records.length } : call;
  const told = outcome.kind === 'read' ? { ...outcome, records: outcome.records.length } : outcome;
  return `${client} [${calledAt}, ${answeredAt}] ${JSON.stringify(asked)} -> ${JSON.stringify(told)}`;
}
