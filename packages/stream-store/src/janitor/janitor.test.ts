import { expect, test } from 'vitest';
import { Janitor } from './janitor.ts';

test('goes round after round, each task in its turn, until it is stopped', async () => {
  const log: string[] = [];
  const { promise: thirdRound, resolve } = Promise.withResolvers<void>();
  const task = (name: string) => ({
    async run() {
      log.push(`${name} begins`);
      await new Promise((done) => setImmediate(done));
      log.push(`${name} ends`);
      if (log.length >= 12) resolve();
    },
  });
  const janitor = new Janitor({ tasks: [task('one'), task('two')], everyMs: 1, random: () => 0.5 });
  janitor.start();
  await thirdRound;
  await janitor.stop();
  const round = ['one begins', 'one ends', 'two begins', 'two ends'];
  expect(log.slice(0, 12)).toEqual([...round, ...round, ...round]);
  const after = log.length;
  janitor.start();
  await new Promise((done) => setTimeout(done, 5));
  expect(log.length).toBe(after);
});

test('stops when the task under way has ended, and begins no other', async () => {
  const { promise: held, resolve: letGo } = Promise.withResolvers<void>();
  const log: string[] = [];
  const first = {
    async run(signal: AbortSignal) {
      await held;
      log.push(`told: ${signal.aborted}`);
    },
  };
  const second = { run: () => Promise.resolve(void log.push('second')) };
  const janitor = new Janitor({ tasks: [first, second], everyMs: 60_000 });
  const round = janitor.round();
  expect(janitor.round()).toBe(round);
  const stopped = janitor.stop().then(() => log.push('stopped'));
  letGo();
  await stopped;
  expect(log).toEqual(['told: true', 'stopped']);
});
