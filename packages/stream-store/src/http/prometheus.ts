import { readdirSync } from 'node:fs';
import { monitorEventLoopDelay } from 'node:perf_hooks';

/** The few metrics of the HTTP surface, in the Prometheus text format. No label ever carries a client's value (I11). */

/** A histogram with fixed buckets. HOT PATH: observing is a short search and three additions. */
export class Histogram {
  readonly name: string;
  readonly help: string;
  readonly #bounds: readonly number[];
  readonly #counts: Float64Array;
  #sum = 0;

  constructor(name: string, help: string, bounds: readonly number[]) {
    this.name = name;
    this.help = help;
    this.#bounds = bounds;
    this.#counts = new Float64Array(bounds.length + 1);
  }

  observe(value: number): void {
    const bounds = this.#bounds;
    let bucket = 0;
    while (bucket < bounds.length && value > bounds[bucket]!) bucket++;
    this.#counts[bucket]!++;
    this.#sum += value;
  }

  expose(): string {
    let text = `# HELP ${this.name} ${this.help}\n# TYPE ${this.name} histogram\n`;
    let cumulative = 0;
    for (let i = 0; i < this.#bounds.length; i++) {
      cumulative += this.#counts[i]!;
      text += `${this.name}_bucket{le="${this.#bounds[i]}"} ${cumulative}\n`;
    }
    cumulative += this.#counts[this.#bounds.length]!;
    return `${text}${this.name}_bucket{le="+Inf"} ${cumulative}\n${this.name}_sum ${this.#sum}\n${this.name}_count ${cumulative}\n`;
  }
}

export class HttpMetrics {
  readonly appendAckLatency = new Histogram(
    's2_append_ack_latency_seconds',
    'From a complete append request to its durable acknowledgement.',
    [0.0005, 0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1, 2, 5],
  );
  readonly appendPermitLatency = new Histogram(
    's2_append_permit_latency_seconds',
    'How long appends waited for a share of the bytes that may be in flight.',
    [0.0001, 0.001, 0.005, 0.01, 0.05, 0.1, 0.5, 1, 5],
  );
  readonly appendBatchRecords = new Histogram(
    's2_append_batch_records',
    'Records per acknowledged batch.',
    [1, 2, 5, 10, 20, 50, 100, 200, 500, 1000],
  );
  readonly appendBatchBytes = new Histogram(
    's2_append_batch_bytes',
    'Metered bytes per acknowledged batch.',
    [128, 512, 1024, 4096, 16_384, 65_536, 262_144, 1_048_576],
  );
  readonly #loopDelay = monitorEventLoopDelay({ resolution: 20 });
  readonly #startedAt = Date.now() / 1000 - process.uptime();

  constructor() {
    this.#loopDelay.enable();
  }

  expose(): string {
    const cpu = process.cpuUsage();
    const memory = process.memoryUsage();
    return [
      this.appendPermitLatency.expose(),
      this.appendAckLatency.expose(),
      this.appendBatchRecords.expose(),
      this.appendBatchBytes.expose(),
      sample('process_cpu_seconds_total', 'counter', 'User and system CPU time.', (cpu.user + cpu.system) / 1e6),
      sample('process_resident_memory_bytes', 'gauge', 'Resident memory.', memory.rss),
      sample('process_heap_bytes', 'gauge', 'Used JavaScript heap.', memory.heapUsed),
      sample('process_external_memory_bytes', 'gauge', 'Buffers outside the JavaScript heap.', memory.external),
      sample('process_start_time_seconds', 'gauge', 'Start, in seconds since the epoch.', this.#startedAt),
      sample(
        'nodejs_eventloop_lag_p99_seconds',
        'gauge',
        'Event loop delay, 99th percentile since start.',
        this.#loopDelay.percentile(99) / 1e9,
      ),
      exposeFileDescriptors(),
    ].join('');
  }

  close(): void {
    this.#loopDelay.disable();
  }
}

/** Each connection is one. Only Linux tells; elsewhere the metric is missing. */
function exposeFileDescriptors(): string {
  try {
    return sample('process_open_fds', 'gauge', 'Open file descriptors.', readdirSync('/proc/self/fd').length);
  } catch {
    return '';
  }
}

export function sample(name: string, type: 'counter' | 'gauge', help: string, value: number): string {
  return `# HELP ${name} ${help}\n# TYPE ${name} ${type}\n${name} ${value}\n`;
}

/** One metric with a value for each of the labels, which are ours: never a client's. */
export function labelled(
  name: string,
  type: 'counter' | 'gauge',
  help: string,
  label: string,
  values: Readonly<Record<string, number>>,
): string {
  let text = `# HELP ${name} ${help}\n# TYPE ${name} ${type}\n`;
  for (const [key, value] of Object.entries(values)) text += `${name}{${label}="${key}"} ${value}\n`;
  return text;
}
