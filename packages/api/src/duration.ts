/** Durations as S2's CLI takes and prints them: `7d`, `1h 30m`, `5ms`, `2weeks`. */

const SECOND = 1000;
const DAY = 86_400 * SECOND;

const UNITS: Record<string, number> = {
  us: 0.001,
  usec: 0.001,
  ms: 1,
  msec: 1,
  s: SECOND,
  sec: SECOND,
  secs: SECOND,
  second: SECOND,
  seconds: SECOND,
  m: 60 * SECOND,
  min: 60 * SECOND,
  mins: 60 * SECOND,
  minute: 60 * SECOND,
  minutes: 60 * SECOND,
  h: 3600 * SECOND,
  hr: 3600 * SECOND,
  hrs: 3600 * SECOND,
  hour: 3600 * SECOND,
  hours: 3600 * SECOND,
  d: DAY,
  day: DAY,
  days: DAY,
  w: 7 * DAY,
  week: 7 * DAY,
  weeks: 7 * DAY,
  M: 30.44 * DAY,
  month: 30.44 * DAY,
  months: 30.44 * DAY,
  y: 365.25 * DAY,
  year: 365.25 * DAY,
  years: 365.25 * DAY,
};

/** Milliseconds, or null when `text` is not one or more `<whole number><unit>`. */
export function parseDuration(text: string): number | null {
  if (!/^\s*(?:\d{1,12}\s*[a-zA-Z]+\s*)+$/.test(text)) return null;
  let total = 0;
  for (const [, digits, unit] of text.matchAll(/(\d+)\s*([a-zA-Z]+)/g)) {
    const size = UNITS[unit!];
    if (size === undefined) return null;
    total += Number(digits) * size;
  }
  return Number.isSafeInteger(Math.round(total)) ? total : null;
}

const PRINTED: readonly (readonly [singular: string, plural: string, seconds: number])[] = [
  ['year', 'years', 31_557_600],
  ['month', 'months', 2_630_016],
  ['day', 'days', 86_400],
  ['h', 'h', 3600],
  ['m', 'm', 60],
  ['s', 's', 1],
];

const DAY_SECONDS = 86_400;

export function formatDuration(seconds: number): string {
  // Months and years are of no whole number of days: 90 days would read "2months 29days 2h 52m 48s".
  if (seconds >= 2 * DAY_SECONDS && seconds % DAY_SECONDS === 0) return `${seconds / DAY_SECONDS}days`;
  const parts: string[] = [];
  let rest = Math.floor(seconds);
  for (const [singular, plural, size] of PRINTED) {
    const count = Math.floor(rest / size);
    rest -= count * size;
    if (count > 0) parts.push(`${count}${count === 1 ? singular : plural}`);
  }
  return parts.length === 0 ? '0s' : parts.join(' ');
}
