/** What ends a process and what only a pipeline, with pipelines that a test ends as it likes. */
import type { DatabaseConfig, SinkConfig } from '@millrace/api/config';
import { InvariantError } from '@millrace/core/assert';
import { MillraceError } from '@millrace/core/error';
import type { HealthMonitor } from '@millrace/engine/health/health-monitor';
import type { Pipeline } from '@millrace/engine/pipeline-options';
import { superviseDatabase } from '@millrace/server/database-supervisor';
import { expect, test } from 'vitest';

function rig(options: { firstFailureEnds?: boolean; takesSinks?: boolean; starts?: (() => unknown)[] } = {}) {
  const lines: string[] = [];
  const ends: ((error: unknown) => void)[] = [];
  const waiting = new Map<number, () => void>();
  let stopped = 0;
  const supervisor = superviseDatabase({
    config: { name: 'shop' } as DatabaseConfig,
    sinks: [],
    firstFailureEnds: options.firstFailureEnds ?? false,
    log: (line) => void lines.push(line),
    retry: { minMs: 1, maxMs: 5 },
    watch: () => ({ notices: null, stop: async () => {} }) as unknown as HealthMonitor,
    applySinks: async () => options.takesSinks ?? true,
    async start({ signal }) {
      const failure = options.starts?.[ends.length]?.();
      const over = Promise.withResolvers<void>();
      over.promise.catch(() => {});
      ends.push(over.reject);
      waiting.get(ends.length)?.();
      if (failure instanceof Promise)
        await Promise.race([failure, new Promise((_, no) => signal.addEventListener('abort', no))]);
      else if (failure !== undefined) throw failure;
      return { done: over.promise, stop: async () => void stopped++ } as unknown as Pipeline;
    },
  });
  return {
    supervisor,
    lines,
    ends,
    stopped: () => stopped,
    started: (count: number) =>
      new Promise<void>((resolve) => (ends.length >= count ? resolve() : waiting.set(count, resolve))),
  };
}

test('a pipeline that ends for what can be mended is stopped, reported and started again', async () => {
  const { supervisor, lines, ends, started, stopped } = rig();
  await supervisor.firstStart;
  expect(supervisor.state.kind).toBe('running');
  ends[0]!(new MillraceError('pg_slot_missing'));
  await started(2);
  expect(stopped()).toBe(1);
  expect(lines).toEqual([expect.stringMatching(/^shop: The replication slot does not exist\..*pg_slot_missing/)]);
  await supervisor.stop();
  expect(stopped()).toBe(2);
  expect(supervisor.pipeline).toBeNull();
});

test('a bug of ours ends the pipeline of its database only, and its text, which may quote a value, is not shown', async () => {
  const { supervisor, lines, ends, started } = rig();
  await supervisor.firstStart;
  ends[0]!(new TypeError('cannot read "secret" of undefined'));
  await started(2);
  expect(lines[0]).toMatch(/\(?internal|did not foresee/);
  expect(lines[0]).not.toContain('secret');
  await supervisor.stop();
});

test.each([new InvariantError('an invariant'), new MillraceError('storage_failed'), new MillraceError('storage_full')])(
  '%s is fatal for the process, and nothing starts again',
  async (error) => {
    const { supervisor, ends, stopped } = rig();
    await supervisor.firstStart;
    ends[0]!(error);
    await expect(supervisor.fatal).rejects.toBe(error);
    await supervisor.stop();
    expect(ends).toHaveLength(1);
    expect(stopped()).toBe(1);
  },
);

test('the first failure of an only database is its last, that of one among several is not', async () => {
  const failure = new MillraceError('pg_auth_failed');
  const only = rig({ firstFailureEnds: true, starts: [() => failure] });
  await expect(only.supervisor.firstStart).rejects.toBe(failure);
  await only.supervisor.stop();
  expect(only.ends).toHaveLength(1);

  const several = rig({ starts: [() => failure, () => failure] });
  await expect(several.supervisor.firstStart).rejects.toBe(failure);
  await several.started(3);
  await several.supervisor.stop();
  expect(several.lines).toHaveLength(2);
});

test('what runs ends and starts anew when asked to, and stops while it is still starting', async () => {
  const { supervisor, started, stopped } = rig({ starts: [() => undefined, () => new Promise(() => {})] });
  await supervisor.firstStart;
  supervisor.restart();
  await started(2);
  expect(stopped()).toBe(1);
  await supervisor.stop();
  expect(stopped()).toBe(1);
});

test('other sinks are handed to what runs; only where it cannot take them it starts anew', async () => {
  const sinks = [{ name: 'a' } as SinkConfig];
  const taken = rig();
  await taken.supervisor.firstStart;
  await taken.supervisor.applySinks(sinks);
  expect(taken.supervisor.sinks).toBe(sinks);
  expect(taken.stopped()).toBe(0);
  await taken.supervisor.stop();

  const refused = rig({ takesSinks: false });
  await refused.supervisor.firstStart;
  await refused.supervisor.applySinks(sinks);
  await refused.started(2);
  expect(refused.stopped()).toBe(1);
  expect(refused.supervisor.sinks).toBe(sinks);
  await refused.supervisor.stop();
});
