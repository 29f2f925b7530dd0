/** A metric in Prometheus' text format. */

export interface Metric {
  readonly name: string;
  readonly type: 'counter' | 'gauge';
  readonly help: string;
  /** Labels and values; null where there is nothing to say now. */
  readonly samples: readonly (readonly [Readonly<Record<string, string>>, number | null])[];
}

export function expose({ name, type, help, samples }: Metric): string {
  let text = `# HELP ${name} ${help}\n# TYPE ${name} ${type}\n`;
  for (const [labels, value] of samples) {
    if (value === null) continue;
    const inner = Object.entries(labels).map(([label, of]) => `${label}="${escaped(of)}"`);
    text += `${name}{${inner.join(',')}} ${value}\n`;
  }
  return text;
}

function escaped(value: string): string {
  return value.replaceAll('\\', '\\\\').replaceAll('"', '\\"').replaceAll('\n', '\\n');
}
