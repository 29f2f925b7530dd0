/** Bodies of the pull routes of the management API: Sequin's, and what it lacks (delays, extending). */
import * as z from 'zod';
import { parseDuration } from './duration.ts';

export const RECEIVE_MESSAGES_MAX = 1_000;
export const RECEIVE_WAIT_MS_MAX = 300_000;
export const ACK_IDS_MAX = 10_000;
/** As long as a message may be kept back, or worked on, without another word. */
export const LEASE_MS_MAX = 43_200_000;

/** In a query everything is text. */
function wholeNumber(min: number, max: number) {
  const text = `must be a whole number from ${min} to ${max}`;
  return z
    .union(
      [
        z.number(),
        z
          .string()
          .regex(/^\d{1,15}$/)
          .transform(Number),
      ],
      { error: text },
    )
    .pipe(z.int(text).min(min, text).max(max, text));
}

/** Milliseconds, or a duration: `500`, `"500"`, `"30s"`, `"1m"`. */
function milliseconds(max: number) {
  const text = `must be milliseconds or a duration such as "30s", at most ${max} ms`;
  return z
    .union([z.number(), z.string()], { error: text })
    .transform((value) =>
      typeof value === 'number' ? value : /^\d{1,15}$/.test(value) ? Number(value) : parseDuration(value),
    )
    .pipe(z.number(text).min(0, text).max(max, text));
}

export const receiveBody = z
  .strictObject({
    max_batch_size: wholeNumber(1, RECEIVE_MESSAGES_MAX).nullish().describe('Messages at most. Default 1.'),
    batch_size: wholeNumber(1, RECEIVE_MESSAGES_MAX).nullish().describe('The same.'),
    wait_for: milliseconds(RECEIVE_WAIT_MS_MAX)
      .nullish()
      .describe(
        'How long to wait for the first message: milliseconds, or a duration such as 30s. Default: not at all.',
      ),
  })
  .transform(({ max_batch_size, batch_size, wait_for }) => ({
    messagesMax: max_batch_size ?? batch_size ?? 1,
    waitMs: wait_for ?? 0,
  }));

const IDS = 'must be a list of the ack_id of received messages';
const ackIds = z
  .array(z.string({ error: IDS }).min(1, IDS).max(200, IDS), { error: IDS })
  .min(1, 'must not be empty')
  .max(ACK_IDS_MAX, `must be at most ${ACK_IDS_MAX}`);

export const ackBody = z.strictObject({ ack_ids: ackIds });

export const nackBody = z.strictObject({
  ack_ids: ackIds,
  delay_ms: milliseconds(LEASE_MS_MAX).nullish().describe('When they may be received again. Default: at once.'),
});

export const extendBody = z.strictObject({
  ack_ids: ackIds,
  ms: milliseconds(LEASE_MS_MAX).nullish().describe('From now on. Default: ack_wait_ms of the sink.'),
});
