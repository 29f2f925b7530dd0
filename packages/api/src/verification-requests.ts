/** Bodies of the verification routes of the management API. */
import * as z from 'zod';

const TARGET = 'must be the name of a sink, or table or schema.table';

export const createVerificationBody = z.strictObject({
  target: z
    .string({ error: TARGET })
    .min(1, TARGET)
    .max(512, TARGET)
    .describe('A sink: the source is compared with its stream. A table: with the row index of its database.'),
  database: z.string({ error: 'must be the name of a database' }).nullish().describe('Where several have the table.'),
  rows_per_second: z
    .int({ error: 'must be a whole number' })
    .min(1, 'must be at least 1')
    .nullish()
    .describe('How fast the source is read. Default: as fast as it goes.'),
  show_keys: z
    .boolean({ error: 'must be true or false' })
    .nullish()
    .describe('Name the keys that differ, up to 100 per table. They are row values.'),
});
