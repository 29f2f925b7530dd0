/** Bodies and query strings of the routes by which an operator handles a sink and what it could not deliver. */
import { parseLsn } from '@millrace/core/lsn';
import * as z from 'zod';

const LSN = 'must be an LSN, like 0/16B3748';
const TIME = 'must be a time in ISO 8601, like 2026-11-23T08:00:00Z';
const lsn = z.string({ error: LSN }).refine((text) => parseLsn(text) !== null, LSN);
const time = z
  .string({ error: TIME })
  .refine((text) => /^\d{4}-\d\d-\d\dT/.test(text) && !Number.isNaN(Date.parse(text)), TIME);

/** Exactly one of the keys. */
export const rewindBody = z
  .strictObject({
    lsn: lsn.nullish().describe('The first transaction that committed at or after this LSN comes next.'),
    time: time.nullish().describe('The first transaction that committed at or after this time comes next.'),
    beginning: z.literal(true, { error: 'must be true' }).nullish().describe('All that the change log still has.'),
  })
  .refine((body) => [body.lsn, body.time, body.beginning].filter((one) => one != null).length === 1, {
    error: 'one of lsn, time and beginning is required',
    path: ['lsn'],
  });

const whole = (max: number) => {
  const error = `must be a whole number from 0 to ${max}`;
  return z.coerce.number({ error }).int(error).min(0, error).max(max, error);
};
const flag = z.enum(['true', 'false'], { error: 'must be true or false' }).transform((text) => text === 'true');

export const MESSAGES_LISTED_MAX = 1_000;

export const messagesQuery = z.strictObject({
  state: z.enum(['pending', 'failing'], { error: 'must be pending or failing' }).optional(),
  limit: whole(MESSAGES_LISTED_MAX).default(100),
  show_keys: flag.default(false),
});

const SEQ_MAX = Number.MAX_SAFE_INTEGER;
/** In a body numbers are numbers, in a query string text. */
const letterFilter = {
  table: z.string({ error: 'must be table or schema.table' }).min(1, 'must not be empty').nullish(),
  code: z.string({ error: 'must be an error code' }).min(1, 'must not be empty').nullish(),
  since: time.nullish().describe('Given up at this time or later.'),
  before: time.nullish().describe('Given up before this time.'),
  from_seq: whole(SEQ_MAX).nullish(),
  to_seq: whole(SEQ_MAX).nullish(),
};

export const deadLettersQuery = z.strictObject({
  ...letterFilter,
  limit: whole(MESSAGES_LISTED_MAX).default(100),
  show_messages: flag.default(false),
});

export const deadLettersBody = z.strictObject(letterFilter);
export type DeadLettersFilter = z.output<typeof deadLettersBody>;

export const purgeQuery = z
  .strictObject({ ...letterFilter, all: flag.default(false) })
  .refine((query) => query.all || Object.entries(query).some(([key, value]) => key !== 'all' && value != null), {
    error: 'is required when nothing else says which',
    path: ['all'],
  });
