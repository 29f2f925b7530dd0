/** How numbers look in the cells of tables. */
import type { Spread } from './statistics.ts';

const MIB = 1_048_576;

export function spread({ median, min, max }: Spread, show: (value: number) => string): string {
  return min === max ? show(median) : `${show(median)} (${show(min)}-${show(max)})`;
}

export function thousands(value: number): string {
  return `${(value / 1000).toFixed(value < 10_000 ? 1 : 0)} k`;
}

export function mib(bytes: number): string {
  return (bytes / MIB).toFixed(0);
}
