/**
 * Server-sent events to one client. It holds a batch of messages and a slice of it: a client that takes nothing holds up
 * only its own reading, and not for ever.
 */
import type { ServerResponse } from 'node:http';
import { MillraceError } from '@millrace/core/error';
import { comparePositions, formatPosition } from '@millrace/core/position';
import { unforeseen } from '@millrace/core/unforeseen';
import type { ChangeTail, TailBatch, TailMessage } from '@millrace/engine/change-tail';
import { type EventPlace, eventId, wasSeen } from './event-id.ts';
import { ManagementError } from './management-error.ts';

export interface EventStreamOptions {
  readonly tail: ChangeTail;
  readonly from: EventPlace | null;
  readonly to: ServerResponse;
  /** Aborted when the client is gone; aborts the tail. */
  readonly gone: AbortController;
  /** Throws when the client may not go on reading. */
  readonly mayRead: () => void;
  readonly log: (line: string) => void;
  readonly heartbeatMs?: number;
  readonly stalledMs?: number;
}

/** Proxies end what is silent for long. */
const HEARTBEAT_MS = 15_000;
/** A client that takes nothing for so long is cut: it is dead, or will never catch up. */
const STALLED_MS = 60_000;
/** Written at once: that the client takes something shows from slice to slice. */
const SLICE_BYTES = 65_536;

/** Resolves when the client is gone, may not read on, or there is nothing more to read. Never rejects. */
export async function sendEvents(options: EventStreamOptions): Promise<void> {
  const { tail, from, to, gone, mayRead, log, heartbeatMs = HEARTBEAT_MS, stalledMs = STALLED_MS } = options;
  const { signal } = gone;
  let stalled = false;
  let refusal: unknown = null;

  async function write(text: string): Promise<void> {
    const bytes = Buffer.from(text);
    for (let at = 0; at < bytes.length && !signal.aborted; at += SLICE_BYTES) {
      if (to.write(bytes.subarray(at, at + SLICE_BYTES))) continue;
      stalled = true;
      const taken = await drained(to, signal, stalledMs);
      stalled = false;
      if (!taken) {
        to.destroy();
        gone.abort();
      }
    }
  }

  // What is idle would not notice otherwise that the token was revoked.
  const heartbeat = setInterval(() => {
    try {
      mayRead();
    } catch (error) {
      refusal = error;
      gone.abort();
    }
    if (!stalled && !signal.aborted) to.write(COMMENT);
  }, heartbeatMs);
  try {
    await write(COMMENT);
    for await (const batch of tail) {
      mayRead();
      await write(textOf(batch, from));
    }
    if (refusal !== null) throw refusal;
  } catch (error) {
    if (signal.aborted && refusal === null) return;
    // The client comes again by itself, with the id of the last event.
    const code = codeOf(error);
    if (code === 'internal') log(`events: ${unforeseen(error).detail ?? code}`);
    to.write(`event: error\ndata: ${JSON.stringify({ code })}\n\n`);
  } finally {
    clearInterval(heartbeat);
    to.end();
    gone.abort();
    // Whoever takes nothing does not see the end either.
    const cut = setTimeout(() => to.destroy(), stalledMs).unref();
    to.once('close', () => clearTimeout(cut));
  }
}

const COMMENT = ':\n\n';

function codeOf(error: unknown): string {
  if (error instanceof MillraceError) return error.code;
  return error instanceof ManagementError ? (error.code ?? 'internal') : 'internal';
}

/** Resolves with false when the client took nothing within `ms`, or is gone. */
function drained(to: ServerResponse, signal: AbortSignal, ms: number): Promise<boolean> {
  return new Promise((resolve) => {
    const end = (taken: boolean) => {
      clearTimeout(timer);
      to.off('drain', onDrain);
      to.off('close', onEnd);
      signal.removeEventListener('abort', onEnd);
      resolve(taken);
    };
    const onDrain = () => end(true);
    const onEnd = () => end(false);
    const timer = setTimeout(onEnd, ms);
    to.once('drain', onDrain);
    to.once('close', onEnd);
    signal.addEventListener('abort', onEnd);
    if (signal.aborted || to.destroyed) onEnd();
  });
}

function textOf({ messages, through }: TailBatch, from: EventPlace | null): string {
  const shown = from === null ? messages : messages.filter((message) => !wasSeen(message, from));
  const last = messages.at(-1);
  // An id without data is no event, but the client goes on after it: what functions made nothing of is not read again.
  const passed = last === undefined || comparePositions(last.position, through) < 0;
  return `${shown.map(eventOf).join('')}${passed ? `id: ${formatPosition(through)}\n\n` : ''}`;
}

/** A line break would end the data: each line gets a `data:`. JSON may have them too, where a column of it was written so. */
function eventOf(message: TailMessage): string {
  const { body, error } = message;
  const id = `id: ${eventId(message)}\n`;
  if (error !== null) return `event: error\n${id}data: ${JSON.stringify({ code: error.code })}\n\n`;
  const text = body.toString();
  const data = text.split(/\r\n|\r|\n/).join('\ndata: ');
  return `${id}data: ${data}\n\n`;
}
