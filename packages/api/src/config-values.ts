/** The single values that the blocks of millrace.yaml are made of, each with what a person is told who got one wrong. */
import * as z from 'zod';

export const LATER = 'is not supported by this version of Millrace yet';
const TEXT = 'must be text; put it in quotes';

export const text = z.string({ error: (issue) => (issue.input === undefined ? undefined : TEXT) });
export const nonEmpty = text.min(1, 'must not be empty');
export const resourceName = nonEmpty
  .max(255, 'must be at most 255 characters')
  .regex(/^[^\p{Cc}]*$/u, 'must not contain control characters');

/** Environment variables expand to text: `port: ${PGPORT:-5432}` has to work. */
export function numberIn(min: number, max: number) {
  const error = `must be a whole number from ${min} to ${max}`;
  const whole = z.int({ error: (issue) => (issue.input === undefined ? undefined : error) });
  return z.preprocess(
    (value) => (typeof value === 'string' && /^\d{1,15}$/.test(value) ? Number(value) : value),
    whole.min(min, error).max(max, error),
  );
}

export const flag = z.preprocess(
  (value) => (value === 'true' ? true : value === 'false' ? false : value),
  z.boolean({ error: (issue) => (issue.input === undefined ? undefined : 'must be true or false') }),
);

export function oneOf<const T extends readonly string[]>(values: T) {
  return z.enum(values, { error: `must be one of: ${values.join(', ')}` });
}

export const slotName = text.regex(
  /^[a-z0-9_]{1,63}$/,
  'a slot name has 1 to 63 characters, only lower-case letters, digits and _',
);

export const identifier = text.refine(
  (value) => Buffer.byteLength(value) >= 1 && Buffer.byteLength(value) <= 63,
  'a Postgres name has 1 to 63 bytes',
);

export const tableName = text.regex(
  /^(?:(?:"(?:[^"]|"")+"|[^".]+)\.)?(?:"(?:[^"]|"")+"|[^".]+)$/,
  'must be table or schema.table; a name with a dot in it goes in double quotes',
);

export function columnNames(least: string) {
  return z.array(identifier, { error: 'must be a list of columns' }).min(1, least);
}

const ANNOTATIONS_BYTES_MAX = 8192;
export const annotations = z
  .record(z.string(), z.unknown(), { error: 'must be a block of keys and values' })
  .refine(
    (value) => Buffer.byteLength(JSON.stringify(value)) <= ANNOTATIONS_BYTES_MAX,
    `must be at most ${ANNOTATIONS_BYTES_MAX} bytes as JSON`,
  );

export const basinName = text.regex(
  /^[a-z0-9][a-z0-9-]{6,46}[a-z0-9]$/,
  'a basin name has 8 to 48 characters, only lower-case letters, digits and -, and neither starts nor ends with -',
);

export const streamName = text.refine(
  (value) => Buffer.byteLength(value) >= 1 && Buffer.byteLength(value) <= 512 && value !== '.' && value !== '..',
  'a stream name has 1 to 512 bytes and is not "." or ".."',
);
