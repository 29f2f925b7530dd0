import { defineConfig } from 'vitest/config';
import { LongestFirst } from './tools/longest-first.ts';

const ALL = ['packages/*/src/**/*.test.ts', 'packages/*/test/**/*.test.ts', 'test/**/*.test.ts', 'tools/**/*.test.ts'];

/**
 * What `npm test` runs a second time, on another major of Postgres: all that speaks to the server by itself, one story
 * from end to end, and the loss classes that hang on the server's version.
 */
const ON_ANOTHER_MAJOR = [
  'packages/postgres/test/**/*.test.ts',
  'test/end-to-end/messages.test.ts',
  'test/loss-classes/{16,17,39}-*.test.ts',
];

/** Set by scripts/bootstrap.js for the whole suite; a run of chosen tests is on one major. */
const alsoMajor = process.env.MILLRACE_TEST_ALSO_MAJOR ?? '';

/** Generous, for machines that are busy: a test that hangs is rare, one that runs slowly is not. */
const shared = {
  expect: { poll: { timeout: 30_000 } },
  testTimeout: 60_000,
  hookTimeout: 120_000,
  pool: 'forks',
  globalSetup: ['packages/testkit/src/global-setup.ts'],
} as const;

/** More than the two cores that the suite is made for: tests wait for servers, disks and clocks half of the time. */
const run = { maxWorkers: 3, sequence: { sequencer: LongestFirst } } as const;

export default defineConfig({
  test:
    alsoMajor === ''
      ? { ...shared, ...run, include: ALL }
      : {
          ...run,
          projects: [
            { test: { ...shared, name: 'all', include: ALL } },
            {
              test: {
                ...shared,
                name: `postgres-${alsoMajor}`,
                include: ON_ANOTHER_MAJOR,
                env: { MILLRACE_TEST_POSTGRES_MAJOR: alsoMajor },
              },
            },
          ],
        },
});
