/** Bodies of the backfill routes of the management API. */
import * as z from 'zod';

const TABLE = 'must be table or schema.table';
const NO_ZERO = /^[^\0]*$/;
const table = z.string({ error: TABLE }).min(1, TABLE).max(200, TABLE).regex(NO_ZERO, TABLE);
const LOST_DIGITS = 'is beyond 2^53, where numbers lose digits; it has to be text';
/** A value in its text form. A number that lost digits would be another one, and name another row. */
const value = z
  .union([z.string(), z.number(), z.boolean()], { error: 'must be text, a number, true or false' })
  .refine((one) => !Number.isInteger(one) || Number.isSafeInteger(one), LOST_DIGITS)
  .transform(String)
  .refine((text) => NO_ZERO.test(text), 'must not contain a zero byte');
const COLUMN = 'must be the name of a column';
const column = z.string({ error: COLUMN }).min(1, COLUMN).regex(NO_ZERO, COLUMN);

/** As Sequin has them; what it lacks: tables, end_position, where, keys, order. */
export const createBackfillBody = z.strictObject({
  table: table.nullish().describe('May be left out when the sink names exactly one table.'),
  tables: z.array(table, { error: 'must be a list of tables' }).min(1, 'must not be empty').max(1000).nullish(),
  state: z.enum(['active', 'paused'], { error: 'must be active or paused' }).nullish(),
  sort_column: column.nullish().describe('Read in the order of this column, and from start_position on.'),
  start_position: value.nullish().describe('The first value of sort_column that is read.'),
  end_position: value.nullish().describe('The last value of sort_column that is read.'),
  where: z
    .string({ error: 'must be an SQL condition' })
    .max(4096, 'must be at most 4096 characters')
    .nullish()
    .describe('Only rows for which this SQL condition holds.'),
  keys: z
    .array(
      z.union([value.transform((one) => [one]), z.array(value)], {
        error: 'must be a value, or a list of values; numbers beyond 2^53 have to be text',
      }),
      { error: 'must be a list of keys' },
    )
    .min(1, 'must not be empty')
    .max(10_000, 'must be at most 10000 keys')
    .nullish()
    .describe('Only rows with these keys: one value each, or a list where the key has several columns.'),
  order: z
    .enum(['physical', 'key'], { error: 'must be physical or key' })
    .nullish()
    .describe('Default: as the rows lie on disk where that is possible, which is quickest.'),
});

export type CreateBackfillBody = z.output<typeof createBackfillBody>;

export const updateBackfillBody = z.strictObject({
  state: z.enum(['active', 'paused', 'cancelled'], { error: 'must be active, paused or cancelled' }),
});
