/** Body of `POST /api/functions/{id_or_name}/test`. */
import * as z from 'zod';
import { FUNCTION_CODE_BYTES_MAX, FUNCTION_TYPES } from './function-schema.ts';

export const TEST_MESSAGES_MAX = 100;

const name = (what: string) => z.string({ error: `must be the name of a ${what}` }).min(1, 'must not be empty');

export const testFunctionBody = z.strictObject({
  messages: z
    .array(z.record(z.string(), z.unknown(), { error: 'must be a message' }), { error: 'must be a list of messages' })
    .min(1, 'must have at least one message')
    .max(TEST_MESSAGES_MAX, `must have at most ${TEST_MESSAGES_MAX} messages`)
    .nullish()
    .describe('What to try it on. Without: the newest captured messages.'),
  sink: name('sink').nullish().describe('Captured messages of this sink. Default: the first that has the function.'),
  table: name('table').nullish().describe('Captured messages of this table only: table or schema.table.'),
  count: z
    .int({ error: 'must be a whole number' })
    .min(1, 'must be at least 1')
    .max(TEST_MESSAGES_MAX, `must be at most ${TEST_MESSAGES_MAX}`)
    .nullish()
    .describe('How many captured messages. Default 10.'),
  synthetic: z
    .boolean({ error: 'must be true or false' })
    .nullish()
    .describe('Made-up messages instead, of `table` where it is known.'),
  enrichment: z
    .boolean({ error: 'must be true or false' })
    .nullish()
    .describe("false: the sink's enrichment is not asked for, and stays null. Default true."),
  type: z.enum(FUNCTION_TYPES, { error: `must be one of: ${FUNCTION_TYPES.join(', ')}` }).nullish(),
  code: z
    .string({ error: 'must be text' })
    .max(FUNCTION_CODE_BYTES_MAX, `must be at most ${FUNCTION_CODE_BYTES_MAX} bytes`)
    .nullish()
    .describe('Code to try in place of what is applied. With a type it need not be applied at all.'),
});
