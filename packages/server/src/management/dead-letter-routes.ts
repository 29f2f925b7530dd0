/** The dead letters of a sink: looked at, sent again, thrown away. */
import { parseTableName } from '@millrace/api/config';
import { type DeadLettersFilter, deadLettersBody, deadLettersQuery, purgeQuery } from '@millrace/api/delivery-requests';
import { parseExactJson } from '@millrace/core/exact-json';
import { POSITION_ZERO, parsePosition } from '@millrace/core/position';
import { DeadLetterStream, type KeptLetter, type LetterFilter } from '@millrace/engine/deliver/dead-letter-stream';
import type { DeliveryControl } from '@millrace/engine/deliver/delivery';
import type { ReplayOutcome } from '@millrace/engine/deliver/pending-message';
import type { MessageAction } from '@millrace/sinks/push-sink';
import { configured, running } from './delivery-routes.ts';
import { ManagementError } from './management-error.ts';
import { bodyOf, type ManagementContext, type ManagementRoutes, queryOf } from './route.ts';

interface OfSink {
  readonly Params: { readonly sink: string };
  readonly Querystring: Record<string, unknown>;
}

/** Letters on their way at once; the sink's own window holds them beside what the feed has. */
const REPLAYED_AT_ONCE = 100;
/** How long the answer waits. What is not over then goes on. */
const ANSWER_WITHIN_MS = 10_000;
/** Settled together. */
const SETTLED_AT_ONCE = 100;

export const deadLetterRoutes: ManagementRoutes = (api, context) => {
  /** By sink, the letters that are being sent again: not twice at the same time. */
  const replaying = new Map<string, Set<number>>();

  api.get<OfSink>('/sinks/:sink/dead_letters', async (request) => {
    const { limit, show_messages: showMessages, ...filter } = queryOf(request, deadLettersQuery);
    const data = [];
    const letters = lettersOf(context, request.params.sink).read(filterOf(filter));
    for await (const letter of letters) {
      if (data.length >= limit) break;
      data.push(letterView(letter, showMessages));
    }
    return { data };
  });

  api.post<OfSink>('/sinks/:sink/dead_letters/replay', async (request) => {
    const filter = filterOf(bodyOf(request, deadLettersBody));
    const one = running(context, request.params.sink);
    if (one.delivery.state.kind === 'paused' || one.delivery.state.kind === 'disabled') {
      throw new ManagementError(409, `The sink is ${one.delivery.state.kind}; resume it first.`);
    }
    const busy = replaying.get(one.config.name) ?? new Set();
    replaying.set(one.config.name, busy);
    const replay = new ReplayRun(lettersOf(context, one.config.name), one.control, busy);
    const over = replay.run(filter);
    await Promise.race([over, replay.late()]);
    return replay.counts;
  });

  api.delete<OfSink>('/sinks/:sink/dead_letters', async (request) => {
    const { all: _, ...filter } = queryOf(request, purgeQuery);
    const letters = lettersOf(context, request.params.sink);
    let purged = 0;
    let some: number[] = [];
    for await (const { seqNum } of letters.read(filterOf(filter))) {
      some.push(seqNum);
      purged++;
    }
    await letters.settle(some);
    some = [];
    return { purged };
  });
};

/** One request to send letters again. */
class ReplayRun {
  readonly #letters: DeadLetterStream;
  readonly #control: DeliveryControl;
  readonly #busy: Set<number>;
  readonly counts = { matched: 0, delivered: 0, given_up: 0, filtered: 0, interrupted: 0, pending: 0 };
  #settled: number[] = [];
  #timer: NodeJS.Timeout | null = null;

  constructor(letters: DeadLetterStream, control: DeliveryControl, busy: Set<number>) {
    this.#letters = letters;
    this.#control = control;
    this.#busy = busy;
  }

  late(): Promise<void> {
    return new Promise((resolve) => {
      this.#timer = setTimeout(resolve, ANSWER_WITHIN_MS);
      this.#timer.unref();
    });
  }

  /** Oldest first. Never rejects for one of them. */
  async run(filter: LetterFilter): Promise<void> {
    const underWay = new Set<Promise<void>>();
    for await (const letter of this.#letters.read(filter)) {
      if (this.#busy.has(letter.seqNum)) continue;
      this.counts.matched++;
      this.counts.pending++;
      this.#busy.add(letter.seqNum);
      const one = this.#replay(letter).finally(() => underWay.delete(one));
      underWay.add(one);
      while (underWay.size >= REPLAYED_AT_ONCE) await Promise.race(underWay);
      if (this.counts.interrupted > 0) break;
    }
    while (underWay.size > 0) await Promise.race(underWay);
    await this.#settle();
    if (this.#timer !== null) clearTimeout(this.#timer);
  }

  async #replay(letter: KeptLetter): Promise<void> {
    const outcome = await sendAgain(this.#control, letter);
    this.counts.pending--;
    this.counts[outcome]++;
    // What was given up again is another letter by now.
    if (outcome !== 'interrupted') this.#settled.push(letter.seqNum);
    if (this.#settled.length >= SETTLED_AT_ONCE) await this.#settle();
    this.#busy.delete(letter.seqNum);
  }

  async #settle(): Promise<void> {
    // A store that refuses: they are there still, and may be sent once more.
    await this.#letters.settle(this.#settled.splice(0)).catch(() => {});
  }
}

async function sendAgain({ push, stream }: DeliveryControl, letter: KeptLetter): Promise<ReplayOutcome> {
  const position = parsePosition(letter.position) ?? POSITION_ZERO;
  const { lsn, ordinal } = position;
  const { sub, message } = letter;
  const action = letter.action as MessageAction;
  if (push === null) return (await stream?.replay({ position, sub, action, message })) ?? 'interrupted';
  const facts = {
    action,
    schema: letter.schema,
    table: letter.table,
    keys: letter.keys,
    databaseName: letter.database,
    idempotencyKey: letter.idempotency_key,
    group: letter.group,
  };
  const barrier = action === 'truncate' || action === 'schema';
  const original = { facts, alsoGroup: null, barrier, lsn, ordinal, bytes: message };
  return (await push.replay(original, sub)) ?? 'interrupted';
}

function lettersOf(context: ManagementContext, sink: string): DeadLetterStream {
  const { config } = configured(context, sink);
  return new DeadLetterStream({ store: context.store, sink: config.name, ...config.delivery.deadLetter });
}

function filterOf({ table, code, since, before, from_seq, to_seq }: DeadLettersFilter): LetterFilter {
  const named = table == null ? null : parseTableName(table);
  return {
    schema: named?.schema,
    table: named?.name,
    code: code ?? undefined,
    sinceMs: since == null ? undefined : Date.parse(since),
    beforeMs: before == null ? undefined : Date.parse(before),
    fromSeq: from_seq ?? undefined,
    toSeq: to_seq ?? undefined,
  };
}

export type DeadLetterJson = ReturnType<typeof letterView>;

/** Keys, route, answer, message and what a function said hold values of rows: only for who asks (I11). */
function letterView(letter: KeptLetter, showMessages: boolean) {
  const { seqNum, message, keys, group, route, answer, error, ...about } = letter;
  const { text, ...shown } = error;
  return {
    seq_num: seqNum,
    ...about,
    error: showMessages && text !== undefined ? { ...shown, text } : shown,
    message_bytes: message.length,
    ...(showMessages && {
      keys,
      group,
      route,
      answer: answer ?? null,
      message: parseExactJson(message.toString()),
    }),
  };
}
