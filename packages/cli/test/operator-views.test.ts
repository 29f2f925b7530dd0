import { writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { afterAll, beforeAll, expect, test, vi } from 'vitest';
import { type Finished, run, type StoreProcess, startStore } from './cli-process.ts';

/** Locations, metrics and limits, as an operator sees and sets them. */

vi.setConfig({ testTimeout: 90_000 });

let store: StoreProcess;

beforeAll(async () => {
  store = await startStore(['--location', 'cellar', '--limits', 'basins-max=2,append-bytes-per-sec=100MiB']);
  await run(['create-basin', 'metrics-basin', '--create-stream-on-append'], store.env);
  await run(['append', 's2://metrics-basin/x'], store.env, 'one\ntwo\n');
});

afterAll(async () => {
  await store?.[Symbol.asyncDispose]();
});

const cli = (...args: string[]): Promise<Finished> => run(args, store.env);
const data = (stdout: string): Finished => ({ stdout, stderr: '', code: 0 });

test('the location of a store is listed, is the default, and is where its basins are', async () => {
  expect(await cli('list-locations')).toEqual(data('cellar\n'));
  expect(await cli('list-locations', '--json')).toEqual(
    data(
      '{"name":"cellar","is_private":false,"storage_classes":["standard","express"],"default_storage_class":"express"}\n',
    ),
  );
  expect(await cli('get-default-location')).toEqual(data('cellar\n'));
  const set = await cli('set-default-location', 'cellar');
  expect(set).toEqual({ stdout: '', stderr: '✓ Default location set to cellar\n', code: 0 });
  expect((await cli('set-default-location', 'attic')).stderr).toMatch(/^invalid: /);
  expect(await cli('list-basins')).toEqual(data('metrics-basin (cellar)\n'));
});

test('metrics are shown as tables, and as the JSON of the API', async () => {
  const basins = await cli('get-account-metrics', 'active-basins');
  expect(basins).toEqual(data('active_basins: 1\n  metrics-basin\n'));
  const operations = await cli('get-account-metrics', 'account-ops', '--interval', 'minute', '--start-ago', '10m');
  expect(operations.stdout).toMatch(/^\S+ \(operations per minute\)\n {2}\d{4}-\d\d-\d\dT\d\d:\d\d:00Z +\d+\n/);
  const storage = await cli('get-stream-metrics', 's2://metrics-basin/x', 'storage', '--json');
  expect(storage.code).toBe(0);
  const { values } = JSON.parse(storage.stdout) as {
    values: { gauge: { name: string; values: [number, number][] } }[];
  };
  expect(values[0]!.gauge.name).toBe('metered_size');
  for (const [time] of values[0]!.gauge.values) expect(time).toBeLessThan(Date.now() / 1000 + 60);
  const appended = await cli('get-basin-metrics', 'metrics-basin', 'append-throughput', '--json');
  expect(appended.stdout).toContain('"unit":"bytes"');
  const future = await cli('get-basin-metrics', 'metrics-basin', 'append-ops', '--end-timestamp', '4000000000');
  expect(future.stderr).toMatch(/^invalid: /);
  expect(future.code).toBe(1);
});

test('what goes beyond a quota is refused, with whom to ask', async () => {
  expect((await cli('create-basin', 'second-basin')).code).toBe(0);
  const third = await cli('create-basin', 'third-basin');
  expect(third.stderr).toMatch(/^quota_exhausted: .+\n\nThe store is configured to hold no more than this\./);
  expect(third.code).toBe(1);
});

test('an init file that the store refuses ends the start, with the root token of the new directory shown', async () => {
  const file = join(store.dir, 'init.yaml');
  writeFileSync(file, 'basins: [{ name: first-basin }, { name: second-basin }]\n');
  const args = ['store', '--data', join(store.dir, 'small'), '--port', '0', '--limits', 'basins-max=1'];
  const { stderr, code } = await run([...args, '--init-file', file]);
  expect(stderr).toMatch(/basin second-basin: .+ \(quota_exhausted\)\n\n\(spec_refused\)/);
  expect(stderr).toContain('S2_ACCESS_TOKEN=mr_');
  expect(code).toBe(1);
});

test('limits that cannot be are refused at the start', async () => {
  const { stderr, code } = await run(['store', '--data', `${store.dir}/other`, '--limits', 'basins=2']);
  expect(stderr).toContain('"basins" is none of append-batches-per-sec');
  expect(code).toBe(1);
});
