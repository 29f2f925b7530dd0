/** Results as tables, with the target beside each number; and the part of README.md that is made of them. */
import { readFileSync, writeFileSync } from 'node:fs';
import { fileURLToPath } from 'node:url';
import { BACKFILL_READERS, type BackfillNumbers } from './backfill.ts';
import { mib, spread, thousands } from './cells.ts';
import { DRAIN_CLIENTS, type DrainClient, type DrainNumbers } from './drains.ts';
import type { GrowthNumbers, GrowthProgram } from './growth.ts';
import { isolationTables } from './isolation-report.ts';
import type { LargeNumbers, LargeSection } from './large.ts';
import type { LatencyNumbers } from './latency.ts';
import type { Measured, Results } from './results.ts';
import { SINK_VARIANTS, type SinksNumbers, type SinkVariant } from './sinks.ts';
import { sinksPushTables } from './sinks-push-report.ts';
import { SOURCE_READERS, type SourceNumbers, type SourceReader } from './source.ts';
import type { Spread } from './statistics.ts';
import type { StoreNumbers } from './store.ts';
import { asMarkdown, type Table } from './tables.ts';
import { judge, TARGETS } from './targets.ts';
import { WRITER_SERVERS, type WriterServer, type WritersNumbers } from './writers.ts';

const MIB = 1_048_576;
const README = fileURLToPath(new URL('README.md', import.meta.url));
const BEGIN = '<!-- bench:begin (written by `npm run bench`) -->';
const END = '<!-- bench:end -->';

export function tablesOf(results: Results): Table[] {
  const tables: Table[] = [];
  for (const name of ['small', 'one', 'big'] as const) {
    const drains = results[name];
    if (drains !== undefined) tables.push(drainTable(name, drains.numbers, about(drains)));
  }
  const {
    latency,
    store,
    writers,
    growth,
    sinks,
    'sinks-push': sinksPush,
    isolation,
    source,
    backfill,
    large,
  } = results;
  if (latency !== undefined) tables.push(latencyTable(latency.numbers, about(latency)));
  if (store !== undefined) tables.push(storeTable(store.numbers, about(store)));
  if (writers !== undefined) tables.push(writersTable(writers.numbers, about(writers)));
  if (growth !== undefined) tables.push(growthTable(growth.numbers, about(growth)));
  if (sinks !== undefined) tables.push(sinksTable(sinks.numbers, about(sinks)));
  if (sinksPush !== undefined) tables.push(...sinksPushTables(sinksPush.numbers, about(sinksPush)));
  if (isolation !== undefined) tables.push(...isolationTables(isolation.numbers, about(isolation)));
  if (source !== undefined) tables.push(sourceTable(source.numbers, about(source)));
  if (backfill !== undefined) tables.push(backfillTable(backfill.numbers, about(backfill)));
  if (large !== undefined) tables.push(largeTable(large.numbers, about(large)));
  return tables;
}

export function writeReadme(results: Results): void {
  const text = readFileSync(README, 'utf8');
  const begin = text.indexOf(BEGIN);
  const end = text.indexOf(END);
  if (begin < 0 || end < begin) throw new Error('bench/README.md has lost the marks between which the tables go.');
  const tables = tablesOf(results).map(asMarkdown).join('\n');
  writeFileSync(README, `${text.slice(0, begin + BEGIN.length)}\n\n${tables}\n${text.slice(end)}`);
}

/** When, on what and how. */
function about({ at, scale, machine, postgres }: Measured<unknown>): string {
  const gib = Math.round(machine.memoryBytes / 2 ** 30);
  const settings = Object.entries(postgres?.settings ?? {}).map(([key, value]) => `${key}=${value}`);
  return [
    `${at.slice(0, 10)}, ${machine.cores} cores (${machine.cpu}), ${gib} GiB, ${machine.kernel}, Node ${machine.node}`,
    `fdatasync of 4 KiB p50 ${machine.fsyncP50Ms.toFixed(2)} ms, p99 ${machine.fsyncP99Ms.toFixed(2)} ms`,
    `load before ${machine.loadBefore.toFixed(2)}${machine.loadBefore > 0.5 ? ' (NOT A QUIET MACHINE)' : ''}`,
    ...(postgres === null ? [] : [`Postgres ${postgres.version} (${settings.join(', ')})`]),
    ...(scale === 1 ? [] : [`SCALE ${scale}: not for claims`]),
  ].join('; ');
}

function drainTable(name: string, numbers: DrainNumbers, measured: string): Table {
  const isSmall = name === 'small';
  const { baseline, clients, rows, runs } = numbers;
  const perTransaction = numbers.rowsPerTransaction === 1;
  return {
    title: `Backlog "${name}": ${numbers.about}`,
    header: ['client', 'rows/s (min-max)', 'ratio', 'target', 'CPU s per M rows', 'target', 'peak RSS MiB'],
    rows: Object.entries(clients).map(([key, client]) => {
      const id = key as DrainClient;
      const isOurs = id === 'framing' || id === 'change-log' || id === 'stream';
      return [
        id === 'recvlogical' ? (numbers.baselineVersion ?? DRAIN_CLIENTS[id]) : DRAIN_CLIENTS[id],
        spread(client.rowsPerSecond, thousands),
        `${client.ratio.toFixed(2)}x`,
        isSmall && isOurs ? judge(TARGETS[id], client.ratio) : '',
        spread(client.cpuSecondsPerMillionRows, (value) => value.toFixed(2)),
        isSmall && id === 'stream' ? judge(TARGETS.streamCpu, client.cpuSecondsPerMillionRows.median) : '',
        mib(client.rssBytesMax.median),
      ];
    }),
    notes: [
      `${rows.toLocaleString('en-US')} rows${perTransaction ? ', each a transaction' : ''}; ` +
        `${numbers.heapBytesPerRow.toFixed(0)} B of heap and ${numbers.wireBytesPerRow.toFixed(0)} B on the socket per row. ` +
        `Medians of ${runs} interleaved runs; ratios to ${DRAIN_CLIENTS[baseline]}.`,
      measured,
    ],
  };
}

function latencyTable(numbers: LatencyNumbers, measured: string): Table {
  const rowOf = (name: string, id: keyof LatencyNumbers['followers']) => {
    const follower = numbers.followers[id];
    return [
      name,
      spread(follower.p50Ms, (value) => value.toFixed(2)),
      judge(TARGETS.latencyP50, follower.p50Ms.median),
      spread(follower.p99Ms, (value) => value.toFixed(2)),
      judge(TARGETS.latencyP99, follower.p99Ms.median),
      thousands(follower.rowsPerSecond.median),
      follower.cpuSecondsPerMillionRows.median.toFixed(2),
    ];
  };
  return {
    title: 'Commit to readable, at a tenth of the drain rate',
    header: ['reader', 'p50 ms (min-max)', 'target', 'p99 ms (min-max)', 'target', 'rows/s', 'CPU s per M rows'],
    rows: [rowOf('in the process', 'in-process'), rowOf('over HTTP (official SDK, S2S)', 'http')],
    notes: [
      `${numbers.transactionsPerSecond} transactions/s of ${numbers.rowsPerTransaction} rows for ${numbers.seconds} s ` +
        `after warming up, from the return of COMMIT at its client to the last record of the transaction in the reader's ` +
        `hands. Median, min and max over ${numbers.runs} runs.`,
      measured,
    ],
  };
}

function storeTable({ inProcess, overHttp, runs }: StoreNumbers, measured: string): Table {
  const rows: string[][] = [];
  const add = (
    what: string,
    value: Spread | undefined,
    show: (value: number) => string,
    verdict: string,
    server = '',
  ) => {
    if (value !== undefined) rows.push([what, spread(value, show), verdict, server]);
  };
  const server = (bench: string) => {
    const cores = overHttp[`${bench}.serverCpuCores`];
    const rss = overHttp[`${bench}.serverRssMib`];
    return cores === undefined || rss === undefined
      ? ''
      : `${cores.median.toFixed(2)} cores, ${rss.median.toFixed(0)} MiB`;
  };
  const ms = (value: number) => `${value.toFixed(2)} ms`;
  const perSecond = (value: number) => `${thousands(value)}/s`;
  const rate = (value: number) => `${value.toFixed(0)} MiB/s`;
  const judged = (key: keyof typeof TARGETS, value: Spread | undefined) =>
    value === undefined ? '' : judge(TARGETS[key], value.median);
  for (const [how, bench] of [
    ['S2S session', 'serialSession'],
    ['unary, HTTP/1.1', 'serialUnary'],
  ] as const) {
    const p50 = overHttp[`${bench}.p50Ms`];
    add(`one serial durable 128 B append, ${how}: p50`, p50, ms, judged('serialAppendP50', p50), server(bench));
    add(`one serial durable 128 B append, ${how}: p99`, overHttp[`${bench}.p99Ms`], ms, '');
  }
  add('one serial durable 128 B append, in process: p50', inProcess.serialAppend128BP50Ms, ms, '');
  for (const [how, bench] of [
    ['S2S sessions on 10 HTTP/2 connections', 'writersSession'],
    ['S2S sessions over HTTP/1.1', 'writersSessionHttp1'],
    ['unary, HTTP/1.1', 'writersUnary'],
  ] as const) {
    const value = overHttp[`${bench}.appendsPerSecond`];
    add(`1,000 writers of 256 B, ${how}`, value, perSecond, judged('concurrentAppends', value), server(bench));
  }
  const direct = inProcess.concurrentAppends256BPerSec;
  add('1,000 writers of 256 B, in process', direct, perSecond, judged('concurrentAppends', direct));
  const write = overHttp['writeLarge.mibPerSecond'];
  add('one session of 1 MiB batches', write, rate, judged('sessionWrite', write), server('writeLarge'));
  add('one session of 1 MiB batches, in process', inProcess.sessionWrite1MiBBatchesMiBPerSec, rate, '');
  for (const [how, bench] of [
    ['HTTP/2', 'readLarge'],
    ['HTTP/1.1', 'readLargeHttp1'],
  ] as const) {
    const value = overHttp[`${bench}.mibPerSecond`];
    add(`catch-up read, ${how}`, value, rate, judged('catchUpRead', value), server(bench));
  }
  add('catch-up read, in process', inProcess.catchUpRead1MiBBatchesMiBPerSec, rate, '');
  return {
    title: 'The store alone',
    header: ['what', 'median (min-max)', 'target', 'server'],
    rows,
    notes: [
      `Every acknowledgement durable (fdatasync). Over loopback with client and server in processes of their own, unless ` +
        `it says in process. ${runs} runs.`,
      measured,
    ],
  };
}

function writersTable(numbers: WritersNumbers, measured: string): Table {
  const { servers, runs, bodyBytes, failures, liteVersion } = numbers;
  const rows = Object.entries(servers.ours ?? {}).flatMap(([count]) =>
    Object.entries(servers).map(([key, byCount]) => {
      const run = byCount[count] ?? null;
      const ours = servers.ours?.[count] ?? null;
      if (run === null) return [count, WRITER_SERVERS[key as WriterServer], 'failed', '', '', '', '', ''];
      const ratio = ours === null ? '' : `${(run.appendsPerSecond.median / ours.appendsPerSecond.median).toFixed(2)}x`;
      return [
        Number(count).toLocaleString('en-US'),
        WRITER_SERVERS[key as WriterServer],
        spread(run.appendsPerSecond, thousands),
        key === 'ours' ? '1.00x' : ratio,
        run.p50Ms.median.toFixed(2),
        run.p99Ms.median.toFixed(2),
        run.cpuMicrosPerAppend.median.toFixed(0),
        mib(run.rssBytesMax.median),
      ];
    }),
  );
  return {
    title: `Writers: unary appends of ${bodyBytes} B, a stream and a connection each`,
    header: ['writers', 'server', 'appends/s (min-max)', 'to ours', 'p50 ms', 'p99 ms', 'CPU us each', 'peak RSS MiB'],
    rows,
    notes: [
      `One append in flight per writer, over loopback; the client is one process and the same for all. Medians of ${runs} ` +
        `interleaved runs.${failures.length === 0 ? '' : ` Failed: ${[...new Set(failures)].join('; ')}.`}` +
        (liteVersion === null ? ' Without s2 lite, which was not there.' : ` S2's self-hosted server: ${liteVersion}.`),
      measured,
    ],
  };
}

function growthTable({ programs, runs }: GrowthNumbers, measured: string): Table {
  const rows: string[][] = [];
  const row = (
    what: string,
    program: GrowthProgram,
    path: string,
    show: (value: number) => string,
    target?: { readonly key: keyof typeof TARGETS; readonly times?: number },
  ) => {
    const value = programs[program][path];
    if (value === undefined) return;
    rows.push([
      what,
      spread(value, show),
      target === undefined ? '' : judge(TARGETS[target.key], value.median * (target.times ?? 1)),
    ]);
  };
  const ms = (value: number) => `${value.toFixed(value < 10 ? 2 : 0)} ms`;
  const perSecond = (value: number) => `${thousands(value)}/s`;
  const rate = (value: number) => `${value.toFixed(0)} MiB/s`;
  const size = (value: number) => `${value.toFixed(0)} MiB`;
  const files = (value: number) => value.toFixed(0);

  const streams = 'million-streams';
  const count = programs[streams].streams?.median ?? 0;
  const many = count.toLocaleString('en-US');
  row(`${many} streams: created in process`, streams, 'created.createsPerSec.0', perSecond, { key: 'streamCreation' });
  row('created over HTTP/2', streams, 'http.createsPerSec', perSecond, { key: 'streamCreation' });
  row(`growth of RSS by ${many} streams`, streams, 'created.rssGrowthMiB', size, { key: 'streamsGrowth', times: MIB });
  for (const at of [1000, 100_000, count]) {
    row(`append with ${at.toLocaleString('en-US')} streams: p50`, streams, `created.append.${at}.p50Us`, (us) =>
      ms(us / 1000),
    );
  }
  row('append while a checkpoint is written: p99', streams, 'created.checkpoint.appendP99Ms', ms);
  row('longest stall of the event loop meanwhile', streams, 'created.checkpoint.loopDelayMaxMs', ms);
  row('list of 1,000 of them', streams, 'created.listPageMs', ms);
  row('opened again in', streams, 'opened.openMs', ms);

  for (const [index, kind] of [
    [0, 'S2S'],
    [1, 'SSE'],
    [2, 'S2S'],
    [3, 'SSE'],
  ] as const) {
    const followers = programs.followers[`runs.${index}.followers`]?.median ?? 0;
    const name = `${followers.toLocaleString('en-US')} followers of one stream, ${kind}`;
    row(`${name}: p50`, 'followers', `runs.${index}.p50Ms`, ms);
    row(`${name}: p99`, 'followers', `runs.${index}.p99Ms`, ms);
    row('server RSS before', 'followers', `runs.${index}.before.rssMiB`, size);
    row('server RSS while delivering', 'followers', `runs.${index}.worked.rssMiB`, size);
    row('file descriptors after they left', 'followers', `runs.${index}.after.fds`, files);
  }
  const idle = programs.followers['idle.followers']?.median ?? 0;
  row(`server RSS with ${idle.toLocaleString('en-US')} idle followers`, 'followers', 'idle.worked.rssMiB', size);

  row('catch-up of one of 1,000 interleaved streams, cold', 'compaction', 'catchUpBefore.mibPerSec', rate);
  row('the same, compacted', 'compaction', 'catchUpAfter.mibPerSec', rate);
  row('write amplification of it', 'compaction', 'writeAmplification', (value) => value.toFixed(2));
  row('directory, before compaction', 'compaction', 'bytesOnDiskMiB.before', size);
  row(
    'directory, six tenths trimmed or deleted, compacted',
    'compaction',
    'bytesOnDiskMiB.afterDroppingSixTenths',
    size,
  );

  for (const [when, path] of [
    ['no compaction', 'off'],
    ['while one runs', 'on'],
  ] as const) {
    row(`${when}: one serial append of 128 B, p50`, 'beside-compaction', `${path}.serial.p50Ms`, ms);
    row(`${when}: p99`, 'beside-compaction', `${path}.serial.p99Ms`, ms);
    row(`${when}: 256 writers of 256 B`, 'beside-compaction', `${path}.appendsPerSec`, perSecond);
  }
  const modes = [
    ...new Set(Object.keys(programs['object-store']).map((path) => /^(.+)\.serial128B\./.exec(path)?.[1])),
  ].filter((mode) => mode !== undefined);
  for (const mode of modes) {
    row(`${mode}: one serial append of 128 B, p50`, 'object-store', `${mode}.serial128B.p50Ms`, ms);
    row(`${mode}: 1,000 writers of 256 B`, 'object-store', `${mode}.writers1000x256B.appendsPerSec`, perSecond);
    row(`${mode}: batches of 1 MB`, 'object-store', `${mode}.batches1MB.mibPerSec`, rate);
  }
  row('catch-up from the local disk', 'object-store', 'catchUp.diskMibPerSec', rate);
  row('catch-up of evicted data from the bucket', 'object-store', 'catchUp.bucketMibPerSec', rate);
  return {
    title: 'The store under growth',
    header: ['what', 'median (min-max)', 'target'],
    rows,
    notes: [
      `${runs} runs. Object storage is the S3 server of the tests on this machine; a real bucket adds its latency to every put.`,
      measured,
    ],
  };
}

function sinksTable(numbers: SinksNumbers, measured: string): Table {
  return {
    title: 'Ten sinks on one slot',
    header: [
      'sinks',
      'records',
      'rows/s (min-max)',
      'CPU s per M rows',
      'peak RSS MiB',
      'CPU of ten to this',
      'target',
    ],
    rows: Object.entries(numbers.variants).map(([key, variant]) => {
      const id = key as SinkVariant;
      const ratio = id === 'all' ? numbers.tenToAll : id === 'part' ? numbers.tenToPart : null;
      return [
        SINK_VARIANTS[id],
        variant.records.toLocaleString('en-US'),
        spread(variant.rowsPerSecond, thousands),
        spread(variant.cpuSecondsPerMillionRows, (value) => value.toFixed(2)),
        mib(variant.rssBytesMax.median),
        ratio === null ? '' : `${ratio.toFixed(2)}x`,
        id === 'all' ? judge(TARGETS.tenSinks, numbers.tenToAll) : '',
      ];
    }),
    notes: [
      `${numbers.rows.toLocaleString('en-US')} small rows, spread over ten tables, into streams of the store in the ` +
        `process. The target is about the same records delivered; one sink for a tenth of them is shown for comparison. ` +
        `Medians of ${numbers.runs} interleaved runs.`,
      measured,
    ],
  };
}

function sourceTable(numbers: SourceNumbers, measured: string): Table {
  const { tps, cores, clients, scaleFactor, runs, seconds } = numbers;
  const alone = tps.nobody?.median ?? Number.NaN;
  return {
    title: 'What capture costs the source: pgbench beside it',
    header: ['who reads the slot', 'transactions/s (min-max)', 'to nobody', 'cores of the reader'],
    rows: Object.entries(tps).map(([key, rate]) => {
      const id = key as SourceReader;
      const used = cores[id];
      return [
        SOURCE_READERS[id],
        spread(rate, (value) => value.toFixed(0)),
        `${(rate.median / alone).toFixed(2)}x`,
        used === undefined ? '' : spread(used, (value) => value.toFixed(2)),
      ];
    }),
    notes: [
      `TPC-B-like, ${clients} clients, scale factor ${scaleFactor}, ${seconds} s a run, all tables published, on the cores ` +
        `that Postgres has too. Medians of ${runs} interleaved runs.`,
      measured,
    ],
  };
}

function backfillTable({ readers, rows, runs, about: what }: BackfillNumbers, measured: string): Table {
  const verdict = (name: string, ratio: number) => {
    if (name === 'one') return judge(TARGETS.backfillOne, ratio);
    return name === 'two' ? judge(TARGETS.backfillParallel, ratio) : '';
  };
  return {
    title: 'Backfill: rows of a table, beside COPY',
    header: ['reader', 'rows/s (min-max)', 'ratio', 'target', 'CPU s per M rows'],
    rows: Object.entries(readers).map(([name, { rowsPerSecond, cpuSecondsPerMillionRows, ratio }]) => [
      BACKFILL_READERS[name]?.about ?? name,
      spread(rowsPerSecond, thousands),
      `${ratio.toFixed(2)}x`,
      verdict(name, ratio),
      spread(cpuSecondsPerMillionRows, (value) => value.toFixed(2)),
    ]),
    notes: [
      `${rows.toLocaleString('en-US')} rows: ${what}. Medians of ${runs} interleaved runs; ratios to COPY.`,
      measured,
    ],
  };
}

function largeTable({ backlog, transaction }: LargeSection, measured: string): Table {
  const row = (what: string, show: (numbers: LargeNumbers) => string, verdict: (numbers: LargeNumbers) => string) => [
    what,
    show(backlog),
    verdict(backlog),
    show(transaction),
    verdict(transaction),
  ];
  const none = () => '';
  return {
    title: 'A long outage of the destination',
    header: ['', 'many transactions', 'target', 'one transaction', 'target'],
    rows: [
      row('rows', (numbers) => numbers.rows.toLocaleString('en-US'), none),
      row('rows per transaction', (numbers) => numbers.rowsPerTransaction.toLocaleString('en-US'), none),
      row('written and captured in', (numbers) => `${numbers.captureSeconds.toFixed(1)} s`, none),
      row('CPU s per M rows while down', (numbers) => numbers.captureCpuSecondsPerMillionRows.toFixed(2), none),
      row(
        'peak RSS while down',
        (numbers) => `${mib(numbers.captureRssBytesMax)} MiB`,
        (numbers) => judge(TARGETS.rss, numbers.captureRssBytesMax),
      ),
      row('most WAL retained meanwhile', (numbers) => `${mib(numbers.retainedWalBytesMax)} MiB`, none),
      row(
        'WAL retained once captured',
        (numbers) => `${mib(numbers.retainedWalBytesAfter)} MiB after ${numbers.releaseSeconds.toFixed(1)} s`,
        (numbers) => judge(TARGETS.retainedWal, numbers.retainedWalBytesAfter),
      ),
      row('caught up, once the destination is back, in', (numbers) => `${numbers.catchUpSeconds.toFixed(1)} s`, none),
      row(
        'peak RSS while catching up',
        (numbers) => `${mib(numbers.catchUpRssBytesMax)} MiB`,
        (numbers) => judge(TARGETS.rss, numbers.catchUpRssBytesMax),
      ),
    ],
    notes: [
      "WAL is retained from the slot's restart_lsn on; Postgres itself keeps that of a transaction until it has committed. " +
        'One run.',
      measured,
    ],
  };
}
