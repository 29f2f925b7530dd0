import { defineConfig } from 'vitest/config';

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

const shared = {
  testTimeout: 30_000,
  hookTimeout: 60_000,
  pool: 'forks',
  globalSetup: ['packages/testkit/src/global-setup.ts'],
} as const;

export default defineConfig({
  test:
    alsoMajor === ''
      ? { ...shared, include: ALL, maxWorkers: 2 }
      : {
          maxWorkers: 2,
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
