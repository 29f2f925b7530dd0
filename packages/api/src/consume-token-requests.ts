/** Bodies of the routes for tokens that may only work on the messages of pull sinks. */
import * as z from 'zod';

/** Names and prefixes of one token. */
export const CONSUMED_MAX = 100;
const NAME_CHARACTERS_MAX = 255;
const ID_BYTES_MAX = 96;

const ID = `must be 1 to ${ID_BYTES_MAX} bytes`;
const NAMES = 'must be a list of names of sinks';
const PREFIXES = 'must be a list of what names of sinks begin with';
const TIME = 'must be a time such as 2027-01-31T12:00:00Z';

const listOf = (text: string, min: number) =>
  z
    .array(z.string({ error: text }).min(min, text).max(NAME_CHARACTERS_MAX, text), { error: text })
    .max(CONSUMED_MAX, `must be at most ${CONSUMED_MAX}`)
    .nullish();

export const consumeTokenBody = z
  .strictObject({
    id: z
      .string({ error: ID })
      .refine((id) => id !== '' && id !== '.' && id !== '..' && Buffer.byteLength(id) <= ID_BYTES_MAX, ID)
      .describe('Unique among the access tokens.'),
    sinks: listOf(NAMES, 1).describe('The sinks it is for, by name.'),
    sink_prefixes: listOf(PREFIXES, 0).describe('And those whose names begin so; an empty text is all.'),
    expires_at: z.iso
      .datetime({ offset: true, error: TIME })
      .nullish()
      .describe('Default: when the token expires that it is made with, or never.'),
  })
  .transform(({ id, sinks, sink_prefixes, expires_at }) => ({
    id,
    sinks: [...new Set(sinks ?? [])],
    sinkPrefixes: [...new Set(sink_prefixes ?? [])],
    expiresAt: expires_at == null ? null : Date.parse(expires_at),
  }))
  .refine(({ sinks, sinkPrefixes }) => sinks.length + sinkPrefixes.length > 0, {
    path: ['sinks'],
    error: 'must name a sink, unless sink_prefixes does',
  });
