/** The tables of push sinks. */
import { mib, spread, thousands } from './cells.ts';
import { PUSH_TARGETS, type PushTargetName } from './push-targets.ts';
import {
  type ProgramLine,
  PUSH_CLIENTS,
  type PushClient,
  type PushClientNumbers,
  type SinksPushNumbers,
} from './sinks-push.ts';
import type { Table } from './tables.ts';

const seconds = (value: number) => value.toFixed(2);

export function sinksPushTables(numbers: SinksPushNumbers, measured: string): Table[] {
  const { ten, functions, filters } = numbers;
  return [
    targetsTable(numbers, measured),
    ...(ten === null
      ? []
      : [
          {
            title: 'Ten push sinks on one slot',
            header: ['sinks', ...HEADER, 'CPU to one'],
            rows: [
              ['one sink takes all ten tables', ...cells(ten.one), '1.00x'],
              [
                'ten sinks take a table each',
                ...cells(ten.ten),
                `${(ten.ten.cpuSecondsPerMillion.median / ten.one.cpuSecondsPerMillion.median).toFixed(2)}x`,
              ],
            ],
            notes: [
              `Into a Redis stream, ${ten.rows.toLocaleString('en-US')} small rows. Medians of ${numbers.runs} interleaved runs.`,
              measured,
            ],
          },
        ]),
    programTable('Functions', 'what', functions, [
      'packages/engine/bench/functions.ts: messages in batches of 1,000; "plain" is the same function as code of the process, "sandbox" as a user of Millrace has it. One run.',
      measured,
    ]),
    programTable('Filters without code, and other rules', 'what', filters, [
      'packages/engine/bench/rules.ts: rows of ten columns from pgoutput to JSON. "passes": every filter is looked at; "held": the first says no; "parsed": the same as JavaScript on the parsed message.',
      measured,
    ]),
  ];
}

const HEADER = ['messages', 'messages/s (min-max)', 'CPU s per M', 'peak RSS MiB'];

function cells(numbers: PushClientNumbers): string[] {
  return [
    numbers.messages.toLocaleString('en-US'),
    spread(numbers.messagesPerSecond, thousands),
    spread(numbers.cpuSecondsPerMillion, seconds),
    mib(numbers.rssBytesMax.median),
  ];
}

function targetsTable({ targets, missing, runs }: SinksPushNumbers, measured: string): Table {
  const rows = Object.entries(targets).flatMap(([target, clients]) =>
    (Object.keys(PUSH_CLIENTS) as PushClient[]).map((client) => {
      const ratio = clients[client].messagesPerSecond.median / clients.ours.messagesPerSecond.median;
      return [
        client === 'ours' ? PUSH_TARGETS[target as PushTargetName] : '',
        PUSH_CLIENTS[client],
        ...cells(clients[client]),
        `${ratio.toFixed(2)}x`,
      ];
    }),
  );
  const absent = Object.entries(missing).map(([target, why]) => `Not measured: ${target} (${why}).`);
  return {
    title: 'A backlog into brokers, queues and webhooks',
    header: ['destination', 'by', ...HEADER, 'to ours'],
    rows,
    notes: [
      `Small rows (10 columns, 160 B, transactions of 100) from a slot, each acknowledged by the server; the server's own ` +
        `count is checked. Ours at the defaults of each kind (webhook: 100 a request), captured into the durable log on the ` +
        `way and with order per row. Naive: npm pg-logical-replication 2.5 with pgoutput, its automatic acknowledgement and ` +
        `flow control, and the same client library as its README shows it; it acknowledges on receipt, so a crash of it loses ` +
        `messages. Servers run on the same machine. Medians of ${runs} interleaved runs.`,
      ...absent,
      measured,
    ],
  };
}

function programTable(title: string, what: string, lines: readonly ProgramLine[], notes: readonly string[]): Table {
  const rated = lines.some(({ perSecond }) => perSecond !== null);
  return {
    title,
    header: [what, ...(rated ? ['per second'] : []), 'CPU s per M'],
    rows: lines.map(({ name, perSecond, cpuSecondsPerMillion }) => [
      name,
      ...(rated ? [perSecond === null ? '' : spread(perSecond, thousands)] : []),
      spread(cpuSecondsPerMillion, seconds),
    ]),
    notes,
  };
}
