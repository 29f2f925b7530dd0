import { MillraceError, madeName } from '@millrace/core/error';
import type { DeliveryState } from '@millrace/engine/deliver/delivery';
import { expect, test } from 'vitest';
import { sinkReporter } from './sink-reporter.ts';

const running: DeliveryState = { kind: 'running', caughtUp: false };
const retrying = (detail: string): DeliveryState => ({
  kind: 'retrying',
  attempt: 1,
  error: new MillraceError('sink_unavailable', { detail }),
});

test('a sink that goes back and forth with each try says so once a minute; what is new is said at once', () => {
  const lines: string[] = [];
  let now = 0;
  const report = sinkReporter(
    (line) => lines.push(line),
    () => now,
  );
  report('a', { kind: 'starting' });
  for (; now < 59_000; now += 1_000) {
    report('a', running);
    report('a', retrying('One.'));
  }
  expect(lines).toEqual(['a: running', expect.stringContaining('One. Retrying. (sink_unavailable)')]);
  report('a', retrying('Two.'));
  report('b', retrying('One.'));
  report('a', { kind: 'paused' });
  expect(lines.slice(2)).toEqual([
    expect.stringContaining('a: '),
    expect.stringContaining('b: '),
    expect.stringContaining('a: paused'),
  ]);
  now = 61_000;
  report('a', running);
  report('a', running);
  expect(lines.slice(5)).toEqual(['a: running']);
});

test('what a routing function made of a row is in no line', () => {
  const lines: string[] = [];
  sinkReporter((line) => lines.push(line))('a', retrying(`No topic "${madeName('Ada')}".`));
  expect(lines).toEqual([expect.stringContaining('No topic "…". Retrying.')]);
});
