/**
 * The engine's hot paths without Postgres and without a disk: nanoseconds per 160-byte row.
 *
 *   node packages/engine/bench/hot-path.ts [rounds]
 *
 * `log`: pgoutput messages into chunks (LogWriter). `messages`: chunks into JSON messages (scanner and encoder).
 * `records`: messages into the journaled form of a stream (the local S2 sink).
 */
import { ByteWriter } from '@millrace/core/byte-writer';
import { MessageBatch } from '@millrace/sinks/message-batch';
import { localS2Sink } from '@millrace/sinks/s2-local';
import type { AppendAck } from '@millrace/stream-store/model';
import type { SequencedInput, Stream, StreamStore } from '@millrace/stream-store/store';
import type { ChangeLog } from '../src/change-log/change-log.ts';
import { CHUNK_FRONT_BYTES } from '../src/change-log/chunk.ts';
import { LogWriter } from '../src/change-log/log-writer.ts';
import { ChangeScanner } from '../src/decode/change-scanner.ts';
import { MessageEncoder } from '../src/decode/message-encoder.ts';
import type { SchemaHistory } from '../src/decode/schema-history.ts';
import { SMALL_COLUMNS, SMALL_TABLE, writeSmallInsert } from './small-row.ts';

const ROWS = 100_000;
const ROWS_PER_TRANSACTION = 100;
const rounds = Number(process.argv[2] ?? 7);

/** Every message of the backlog, back to back, and where each ends. */
function backlog(): { bytes: Buffer; ends: number[] } {
  const out = new ByteWriter(64 << 20);
  const ends: number[] = [];
  const end = () => void ends.push(out.length);
  const text = (value: string) => {
    out.ascii(value);
    out.u8(0);
  };
  for (let row = 0; row < ROWS; row++) {
    const lsn = BigInt(row + 1) << 8n;
    if (row % ROWS_PER_TRANSACTION === 0) {
      out.u8(0x42);
      out.u64(lsn);
      out.u64(0n);
      out.u32(row + 1);
      end();
      if (row === 0) {
        out.u8(0x52);
        out.u32(SMALL_TABLE.oid);
        text('public');
        text('small');
        out.ascii('d');
        out.bytes(Buffer.from([0, SMALL_COLUMNS.length]));
        for (const [name, oid] of SMALL_COLUMNS) {
          out.u8(name === 'id' ? 1 : 0);
          text(name);
          out.u32(oid);
          out.u32(0xffff_ffff);
        }
        end();
      }
    }
    writeSmallInsert(out);
    end();
    if (row % ROWS_PER_TRANSACTION === ROWS_PER_TRANSACTION - 1) {
      const first = BigInt(row + 2 - ROWS_PER_TRANSACTION) << 8n;
      out.u8(0x43);
      out.u8(0);
      out.u64(first);
      out.u64(first + 100n);
      out.u64(0n);
      end();
    }
  }
  return { bytes: Buffer.from(out.view()), ends };
}

const { bytes, ends } = backlog();
const chunks: Buffer[] = [];

/** A log that keeps its chunks in memory and is durable at once. */
function memoryLog(): ChangeLog {
  const log = {
    nextSeq: 0,
    committedLsn: 0n,
    durableLsn: 1n << 62n,
    endLsn: 0n,
    endsOpen: false,
    bytes: 0,
    async append(chunk: Buffer, _lsn: bigint, committedLsn: bigint, endLsn: bigint) {
      log.nextSeq++;
      log.committedLsn = committedLsn;
      log.endLsn = endLsn;
      chunks.push(chunk);
    },
    progressed() {},
    countCommit() {},
    voided: () => undefined,
  };
  return log as unknown as ChangeLog;
}

async function writeLog(): Promise<void> {
  chunks.length = 0;
  const failed = (error: unknown) => {
    throw error;
  };
  const writer = new LogWriter(memoryLog(), { acknowledge() {}, pressure() {}, failed });
  let start = 0;
  for (let i = 0; i < ends.length; i++) {
    writer.message(bytes, start, ends[i]!);
    start = ends[i]!;
    if (i % 300 === 299) writer.burst();
    if (i % 3000 === 0) await null;
  }
  writer.burst();
  await null;
  writer.burst();
}

const schemas = { lookup: () => SMALL_TABLE } as unknown as SchemaHistory;
const origin = {
  database: {
    id: '1081845e-4d26-85f2-a7b8-a552cb5241fd',
    name: 'shop',
    annotations: {},
    database: 'shop',
    hostname: 'db',
  },
  consumer: { id: 'ea4641d4-b175-8b06-b2bf-ae0eb2bee480', name: 'products', annotations: {} },
};

const stream = {
  id: 1,
  cipher: null,
  tail: { seqNum: 0, timestamp: 0n },
  assignedSeqNum: 0,
  firstSeqNum: 0,
  appendSequenced: async (_: SequencedInput): Promise<AppendAck> => ({
    start: stream.tail,
    end: stream.tail,
    tail: stream.tail,
  }),
} as unknown as Stream;
const sink = localS2Sink({
  store: { openStream: async () => stream } as unknown as StreamStore,
  name: 'products',
  basin: 'bench-basin',
  stream: 'products',
});

async function makeMessages(each: (batch: MessageBatch) => Promise<void>): Promise<void> {
  const takes = () => true;
  const encoder = new MessageEncoder({ schemas, origin, takes, actions: { insert: true, update: true, delete: true } });
  const scanner = new ChangeScanner(memoryLog(), encoder, { lsn: 0n, ordinal: -1 });
  const batch = new MessageBatch(sink.limits);
  encoder.batch = batch;
  for (let seq = 0; seq < chunks.length; seq++) {
    const chunk = chunks[seq]!;
    scanner.feed({ seq, bytes: chunk, start: CHUNK_FRONT_BYTES, end: chunk.length });
    while (scanner.scan() === 'refused') {
      await each(batch);
      batch.clear();
    }
  }
  await each(batch);
}

async function time(run: () => Promise<void>): Promise<number> {
  const before = process.cpuUsage();
  await run();
  const { user, system } = process.cpuUsage(before);
  return ((user + system) * 1000) / ROWS;
}

const results = { log: [] as number[], messages: [] as number[], records: [] as number[] };
await sink.resume(null, new AbortController().signal);
for (let round = 0; round < rounds + 2; round++) {
  const log = await time(writeLog);
  const messages = await time(() => makeMessages(async () => {}));
  const both = await time(() =>
    makeMessages(async (batch) => void (await sink.write(batch, AbortSignal.timeout(60_000)))),
  );
  if (round < 2) continue; // Warm-up.
  results.log.push(log);
  results.messages.push(messages);
  results.records.push(both - messages);
}
for (const [name, values] of Object.entries(results)) {
  values.sort((a, b) => a - b);
  const at = (q: number) => Math.round(values[Math.floor((values.length - 1) * q)]!);
  console.log(`${name.padEnd(9)} ${at(0.5)} ns of CPU per row (min ${at(0)}, max ${at(1)})`);
}
