import type { MetricSetResponse } from '@s2-dev/streamstore';

/** Metrics as people read them: a line per value, with a bar beside it in a terminal. */

type Metric = MetricSetResponse['values'][number];

const BAR_CELLS = 32;
const EIGHTHS = ['', '▏', '▎', '▍', '▌', '▋', '▊', '▉'];

export function renderMetrics(metrics: readonly Metric[], withBars: boolean): string {
  const parts = metrics.map((metric) => {
    if ('scalar' in metric) {
      const { name, value, unit } = metric.scalar;
      return `${name}: ${formatQuantity(value, unit)}\n`;
    }
    if ('label' in metric) {
      const { name, values } = metric.label;
      return `${name}: ${values.length}\n${values.map((value) => `  ${value}\n`).join('')}`;
    }
    if ('accumulation' in metric) {
      const { name, unit, interval, values } = metric.accumulation;
      return `${name} (${unit} per ${interval})\n${series(values, unit, withBars)}`;
    }
    const { name, unit, values } = metric.gauge;
    return `${name} (${unit})\n${series(values, unit, withBars)}`;
  });
  return parts.length === 0 ? 'no values\n' : parts.join('\n');
}

function series(values: readonly (readonly [Date, number])[], unit: string, withBars: boolean): string {
  if (values.length === 0) return '  no values\n';
  const most = Math.max(...values.map(([, value]) => value));
  const shown = values.map(([, value]) => formatQuantity(value, unit));
  const width = Math.max(...shown.map((text) => text.length));
  return values
    .map(([time, value], index) => {
      const line = `  ${time.toISOString().replace('.000Z', 'Z')}  ${shown[index]!.padStart(width)}`;
      return withBars ? `${line}  ${bar(value, most)}`.trimEnd() : line;
    })
    .map((line) => `${line}\n`)
    .join('');
}

/** As long as `value` is large in comparison with `most`, to an eighth of a cell. */
export function bar(value: number, most: number): string {
  if (most <= 0 || value <= 0) return '';
  const eighths = Math.max(1, Math.round((value / most) * BAR_CELLS * 8));
  return '█'.repeat(Math.floor(eighths / 8)) + EIGHTHS[eighths % 8]!;
}

function formatQuantity(value: number, unit: string): string {
  return unit === 'bytes' ? formatBytes(value) : String(value);
}

const UNITS = ['B', 'KiB', 'MiB', 'GiB', 'TiB', 'PiB'];

export function formatBytes(bytes: number): string {
  let value = bytes;
  let unit = 0;
  while (value >= 1024 && unit < UNITS.length - 1) {
    value /= 1024;
    unit += 1;
  }
  return `${unit === 0 ? value : value.toFixed(value < 10 ? 2 : 1)} ${UNITS[unit]}`;
}
