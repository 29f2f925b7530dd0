import { randomUUID } from 'node:crypto';
import type { S2, S2Stream } from '@s2-dev/streamstore';
import { type Command, InvalidArgumentError, Option } from 'commander';
import type { BenchResult, Progress, Throughput } from '../bench/bench-run.ts';
import type { LatencyHistogram } from '../bench/latency-histogram.ts';
import { RECORD_BYTES_MIN } from '../bench/record-chain.ts';
import { addClientOptions, type ClientOptions, withClient } from '../client.ts';
import { CommandFailure } from '../failure.ts';
import { bar, formatBytes } from '../metrics-view.ts';
import { basinUri, duration, wholeNumber } from '../option-value.ts';
import { INTERRUPTED_EXIT_CODE, notice, standardOutput } from '../terminal.ts';

interface Options extends ClientOptions {
  readonly storageClass?: 'standard' | 'express';
  readonly recordSize: number;
  readonly targetMibps: number;
  readonly duration: number;
  readonly catchupDelay: number;
  readonly json?: boolean;
}

const MIB = 1_048_576;

export function addBench(program: Command): void {
  const command = program
    .command('bench')
    .description('Measure a store, and verify that every record comes back as it was written.')
    .argument('<basin>', 'BASIN or s2://BASIN; a stream is made in it and deleted at the end', basinUri)
    .addOption(new Option('-c, --storage-class <class>', 'of the stream').choices(['standard', 'express']))
    .addOption(
      new Option('-b, --record-size <bytes>', `metered, from ${RECORD_BYTES_MIN} to below 1 MiB`)
        .argParser(recordSize)
        .default(8192),
    )
    .addOption(new Option('-t, --target-mibps <rate>', 'how much to write').argParser(positiveNumber).default(1))
    .addOption(new Option('-d, --duration <duration>', 'how long to write').argParser(duration).default(60_000, '60s'))
    .addOption(
      new Option('-w, --catchup-delay <duration>', 'how long to wait before the stream is read from its front')
        .argParser(duration)
        .default(20_000, '20s'),
    )
    .addOption(new Option('--json', 'the result as JSON'));
  addClientOptions(command)
    .addHelpText(
      'after',
      '\nWhat is written is read twice: as it comes, and from the front when all is written. Each record carries a hash\n' +
        'over itself and those before. When one is missing, doubled, moved or changed, the command says so and ends with 1.' +
        '\n\nExample:\n  $ millrace bench shop-streams -t 10 -d 30s',
    )
    .action((basin: string, options: Options) =>
      withClient(options, (s2) => bench(s2, basin, options), { retry: { appendRetryPolicy: 'noSideEffects' } }),
    );
}

async function bench(s2: S2, basin: string, options: Options): Promise<void> {
  const { runBench } = await import('../bench/bench-run.ts');
  const name = `bench/${randomUUID()}`;
  const { streams } = s2.basin(basin);
  await streams.create({
    stream: name,
    config: {
      retentionPolicy: { ageSecs: 3600 },
      deleteOnEmpty: { minAgeSecs: 60 },
      timestamping: { mode: 'client-require', uncapped: true },
      ...(options.storageClass === undefined ? {} : { storageClass: options.storageClass }),
    },
  });
  const abort = new AbortController();
  const interrupt = (): void => abort.abort();
  process.once('SIGINT', interrupt);
  notice('note', `s2://${basin}/${name}`);
  let result: BenchResult;
  try {
    result = await runBench((): S2Stream => s2.basin(basin).stream(name), {
      recordBytes: options.recordSize,
      targetBytesPerSec: options.targetMibps * MIB,
      durationMs: options.duration,
      catchupDelayMs: options.catchupDelay,
      signal: abort.signal,
      onProgress: showProgress,
    });
  } finally {
    clearProgress();
    process.off('SIGINT', interrupt);
    await streams.delete({ stream: name });
  }
  if (abort.signal.aborted) {
    notice('aborted', '■ [ABORTED]');
    process.exitCode = INTERRUPTED_EXIT_CODE;
    return;
  }
  await standardOutput.write(options.json === true ? `${JSON.stringify(resultJson(result))}\n` : describe(result));
  if (result.mismatches.length > 0) {
    const hint =
      'The store did not give back what was written. Please report this, with the version and the log of the store.';
    throw new CommandFailure('verification_failed', `${result.mismatches.join('; ')}.`, hint);
  }
  notice('done', `✓ ${result.write.records} records verified, live and in the catch-up read`);
}

function describe({ write, read, catchup, ack, endToEnd }: BenchResult): string {
  return [
    `Write: ${describeThroughput(write)}`,
    `Read: ${describeThroughput(read)}`,
    `Catchup: ${describeThroughput(catchup)}`,
    '',
    `Ack latency (n = ${ack.count})`,
    describeLatency(ack),
    `End-to-end latency (n = ${endToEnd.count})`,
    describeLatency(endToEnd),
  ].join('\n');
}

/** `0.99 MiB/s, 127 records/s (62914560 bytes, 7680 records in 60.01 s)` */
function describeThroughput({ bytes, records, elapsedMs }: Throughput): string {
  const { mibps, recordsPerSec } = rates({ bytes, records, elapsedMs });
  const total = `${bytes} bytes, ${records} records in ${(elapsedMs / 1000).toFixed(2)} s`;
  return `${mibps.toFixed(2)} MiB/s, ${Math.round(recordsPerSec)} records/s (${total})`;
}

function rates({ bytes, records, elapsedMs }: Throughput): { mibps: number; recordsPerSec: number } {
  const seconds = Math.max(elapsedMs, 1) / 1000;
  return { mibps: bytes / MIB / seconds, recordsPerSec: records / seconds };
}

function quantiles(latencies: LatencyHistogram): [name: string, ms: number][] {
  return [
    ['min', latencies.count === 0 ? 0 : latencies.minMs],
    ['p50', latencies.quantile(0.5)],
    ['p90', latencies.quantile(0.9)],
    ['p99', latencies.quantile(0.99)],
    ['max', latencies.maxMs],
  ];
}

function describeLatency(latencies: LatencyHistogram): string {
  const rows = quantiles(latencies);
  const withBars = process.stdout.isTTY === true;
  const shown = rows.map(([, ms]) => ms.toFixed(2));
  const width = Math.max(...shown.map((text) => text.length));
  const lines = rows.map(([name, ms], index) => {
    const line = `  ${name}  ${shown[index]!.padStart(width)} ms`;
    return withBars ? `${line}  ${bar(ms, latencies.maxMs)}` : line;
  });
  return `${lines.join('\n')}\n`;
}

function resultJson({ write, read, catchup, ack, endToEnd, mismatches }: BenchResult): unknown {
  const throughput = (value: Throughput) => ({
    bytes: value.bytes,
    records: value.records,
    elapsed_ms: Math.round(value.elapsedMs),
    mib_per_sec: rates(value).mibps,
    records_per_sec: rates(value).recordsPerSec,
  });
  const latency = (value: LatencyHistogram) => ({ n: value.count, ...Object.fromEntries(quantiles(value)) });
  return {
    write: throughput(write),
    read: throughput(read),
    catchup: throughput(catchup),
    ack_ms: latency(ack),
    end_to_end_ms: latency(endToEnd),
    mismatches,
  };
}

const PHASES = { write: 'write', wait: 'wait', catchup: 'catch-up' };
const PROGRESS_CELLS = 24;

/** One line on stderr that is written over and over; nothing when that is no terminal. */
function showProgress({ phase, share, bytes, elapsedMs }: Progress): void {
  if (process.stderr.isTTY !== true) return;
  const filled = Math.min(PROGRESS_CELLS, Math.round(share * PROGRESS_CELLS));
  const rate = phase === 'wait' ? '' : `  ${formatBytes((bytes * 1000) / Math.max(1, elapsedMs))}/s`;
  const cells = `${'█'.repeat(filled)}${'░'.repeat(PROGRESS_CELLS - filled)}`;
  process.stderr.write(`\r\u001b[K${PHASES[phase].padEnd(8)} ${cells} ${Math.round(share * 100)} %${rate}`);
}

function clearProgress(): void {
  if (process.stderr.isTTY === true) process.stderr.write('\r\u001b[K');
}

function recordSize(text: string): number {
  const bytes = wholeNumber(text);
  if (bytes >= RECORD_BYTES_MIN && bytes < MIB) return bytes;
  throw new InvalidArgumentError(`expected ${RECORD_BYTES_MIN} to ${MIB - 1} bytes`);
}

function positiveNumber(text: string): number {
  const value = Number(text);
  if (text !== '' && Number.isFinite(value) && value > 0) return value;
  throw new InvalidArgumentError('expected a number above 0');
}
