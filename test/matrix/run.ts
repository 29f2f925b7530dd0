/**
 * The tests that hang on Postgres, on every major that is supported, one after the other:
 *
 *   npm run test:matrix                         14, 15, 16, 17 and 18
 *   npm run test:matrix -- 14 18                only these
 *   npm run test:matrix -- 18 packages/postgres only these tests, on 18
 *
 * Ends with a table and the sum; exit code 1 when a test failed, or a major could not be run at all.
 */
import { type ChildProcess, spawn } from 'node:child_process';
import { mkdtempSync, readFileSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { argv } from 'node:process';
import { fileURLToPath } from 'node:url';
import { explain } from '@millrace/core/error';
import { MAJOR_VARIABLE, majorFolder, POSTGRES_MAJORS } from '@millrace/testkit/postgres-majors';

const TESTS = [
  'packages/postgres',
  'packages/engine',
  'packages/server/test/preflight.test.ts',
  'test/end-to-end',
  'test/loss-classes',
];
const ROOT = fileURLToPath(new URL('../..', import.meta.url));
const STOP_SIGNALS = ['SIGINT', 'SIGTERM', 'SIGHUP'] as const;
const VITEST = join(ROOT, 'node_modules', 'vitest', 'vitest.mjs');

interface Outcome {
  readonly major: number;
  readonly passed: number;
  readonly failed: number;
  readonly skipped: number;
  readonly seconds: number;
  /** What failed, by file and name; or why nothing ran. */
  readonly failures: readonly string[];
}

interface Report {
  readonly numPassedTests: number;
  readonly numFailedTests: number;
  readonly numPendingTests: number;
  readonly testResults: readonly {
    readonly name: string;
    readonly status: string;
    readonly message: string;
    readonly assertionResults: readonly { readonly fullName: string; readonly status: string }[];
  }[];
}

let running: ChildProcess | null = null;
let stopped = false;
// A run that outlived us would keep its servers.
for (const signal of STOP_SIGNALS) {
  process.on(signal, () => {
    stopped = true;
    running?.kill(signal);
  });
}

async function runOn(major: number, tests: readonly string[]): Promise<Outcome> {
  const started = performance.now();
  const seconds = () => Math.round((performance.now() - started) / 1000);
  const none = { major, passed: 0, skipped: 0 };
  process.stdout.write(`\nPostgres ${major}\n`);
  try {
    await majorFolder(major);
  } catch (error) {
    return { ...none, failed: 1, seconds: seconds(), failures: [explain(error)] };
  }
  const dir = mkdtempSync(join(tmpdir(), `millrace-test-${process.pid}-matrix-`));
  const file = join(dir, 'report.json');
  const reporters = ['--reporter=default', '--reporter=json', `--outputFile.json=${file}`];
  const { MILLRACE_TEST_ALSO_MAJOR: _, ...env } = process.env;
  const code = await new Promise<number | null>((done) => {
    const child = spawn(process.execPath, [VITEST, 'run', ...reporters, ...tests], {
      cwd: ROOT,
      env: { ...env, [MAJOR_VARIABLE]: String(major) },
      stdio: 'inherit',
    });
    running = child;
    child.on('error', () => done(null));
    child.on('exit', (exit) => done(exit));
  });
  try {
    const report = JSON.parse(readFileSync(file, 'utf8')) as Report;
    const failures = report.testResults.flatMap(({ name, status, message, assertionResults }) => {
      const path = name.slice(ROOT.length);
      const failed = assertionResults.filter((result) => result.status === 'failed');
      if (failed.length === 0) return status === 'failed' ? [`${path}: ${message}`] : [];
      return failed.map(({ fullName }) => `${path}: ${fullName}`);
    });
    // A file that does not load, or an error outside of any test, is a failure without a failed test.
    const failed = Math.max(report.numFailedTests, failures.length, code === 0 ? 0 : 1);
    const { numPassedTests: passed, numPendingTests: skipped } = report;
    return { major, passed, failed, skipped, seconds: seconds(), failures };
  } catch {
    return { ...none, failed: 1, seconds: seconds(), failures: [`vitest ended with ${code} and left no report`] };
  } finally {
    rmSync(dir, { recursive: true, force: true });
  }
}

function table(outcomes: readonly Outcome[]): string {
  const header = ['Postgres', 'passed', 'failed', 'skipped', 'seconds', 'result'];
  const rows = outcomes.map(({ major, passed, failed, skipped, seconds }) =>
    [major, passed, failed, skipped, seconds, failed === 0 && passed > 0 ? 'passed' : 'FAILED'].map(String),
  );
  const lines = [header, ...rows];
  const widths = header.map((_, i) => Math.max(...lines.map((line) => line[i]!.length)));
  return lines.map((line) => line.map((cell, i) => cell.padStart(widths[i]!)).join('  ')).join('\n');
}

const chosen = argv.slice(2).filter((word) => /^\d+$/.test(word));
const paths = argv.slice(2).filter((word) => !/^\d+$/.test(word));
const unknown = chosen.filter((word) => !POSTGRES_MAJORS.includes(Number(word)));
if (unknown.length > 0) {
  process.stderr.write(`There is no Postgres ${unknown.join(', ')} here; there are ${POSTGRES_MAJORS.join(', ')}.\n`);
  process.exit(2);
}
const outcomes: Outcome[] = [];
for (const major of chosen.length > 0 ? chosen.map(Number) : POSTGRES_MAJORS) {
  if (!stopped) outcomes.push(await runOn(major, paths.length > 0 ? paths : TESTS));
}
for (const { major, failures } of outcomes) {
  for (const failure of failures) process.stdout.write(`\nPostgres ${major}: ${failure}\n`);
}
const sum = (of: (outcome: Outcome) => number) => outcomes.reduce((total, outcome) => total + of(outcome), 0);
const failed = sum((outcome) => outcome.failed);
process.stdout.write(`\n${table(outcomes)}\n\n${sum(({ passed }) => passed)} passed, ${failed} failed\n`);
process.exitCode = !stopped && failed === 0 && outcomes.every(({ passed }) => passed > 0) ? 0 : 1;
