/** A line that says how far something is. */

const WIDTH = 24;
const PARTS = ' ▏▎▍▌▋▊▉';

/** `done` of `total`; a total that is not known, or was guessed too low, makes no bar of more than it has. */
export function progressBar(done: number, total: number | null, width = WIDTH): string {
  if (total === null) return '·'.repeat(width);
  const share = total === 0 ? 1 : Math.min(1, done / total);
  const eighths = Math.floor(share * width * 8);
  const full = '█'.repeat(eighths >> 3);
  const part = full.length === width ? '' : PARTS[eighths & 7]!.trimEnd();
  return (full + part).padEnd(width, '░');
}

export function percent(done: number, total: number | null): string {
  if (total === null) return '  ?%';
  // Not before it is over: 99.9 % of a guess is not all.
  const share = total === 0 ? 100 : Math.min(99, Math.floor((done * 100) / total));
  return `${String(share).padStart(3)}%`;
}

/** `47 s`, `3 min 20 s`, `2 h 5 min`, `3 d 4 h`. */
export function formatSeconds(seconds: number): string {
  const whole = Math.round(seconds);
  const [d, h, min, s] = [
    Math.floor(whole / 86_400),
    Math.floor(whole / 3600) % 24,
    Math.floor(whole / 60) % 60,
    whole % 60,
  ];
  if (d > 0) return `${d} d ${h} h`;
  if (h > 0) return `${h} h ${min} min`;
  return min > 0 ? `${min} min ${s} s` : `${s} s`;
}

export function formatCount(count: number): string {
  return count.toLocaleString('en-US');
}
