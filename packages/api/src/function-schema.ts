/** `functions[]` and `http_endpoints[]` of millrace.yaml: what sinks name. */
import * as z from 'zod';
import { flag, nonEmpty, numberIn, oneOf, resourceName, text } from './config-values.ts';

export const FUNCTION_TYPES = ['filter', 'transform', 'routing', 'enrichment', 'path'] as const;

/** In a sink these say that there is no function. */
export const NO_FUNCTION: readonly string[] = ['none', 'null', 'nil'];

/** Sequin's limit is 10 KB; a TypeScript function with its types is longer. */
export const FUNCTION_CODE_BYTES_MAX = 256 * 1024;

const FUNCTION_NAME = 'is what a sink says to have no function; choose another name';

/** What an older sequin.yaml has in a block of its own. */
const body = {
  type: oneOf(FUNCTION_TYPES).nullish().describe('filter, transform, routing, enrichment or path.'),
  sink_type: nonEmpty.nullish().describe('Of a routing function: the type of destination it finds routes for.'),
  code: nonEmpty
    .refine(
      (value) => Buffer.byteLength(value) <= FUNCTION_CODE_BYTES_MAX,
      `must be at most ${FUNCTION_CODE_BYTES_MAX} bytes`,
    )
    .nullish()
    .describe('TypeScript or JavaScript; SQL for an enrichment. ${VAR} is not expanded in it.'),
  path: nonEmpty.nullish().describe('Of type path: record, changes, action or metadata, and keys after dots.'),
  file: nonEmpty.nullish().describe('A file with the code, relative to this one; it is read when this one is.'),
};

export const functionSchema = z.strictObject({
  name: resourceName
    .refine((value) => !NO_FUNCTION.includes(value), FUNCTION_NAME)
    .describe('What sinks call it. Unique in the file.'),
  description: text.nullish(),
  ...body,
  cache: z
    .strictObject({
      ttl_ms: numberIn(1, 86_400_000).describe('How long a row of the enrichment is used again.'),
      rows_max: numberIn(1, 1_000_000).nullish().describe('Rows kept. Default 10000.'),
    })
    .nullish()
    .describe('Of an enrichment: keep what was read for a while. Default: read it for every batch.'),
  function: z.strictObject(body).nullish().describe('Older form: type, code and so on in a block of their own.'),
  transform: z.strictObject(body).nullish().describe('Older form: type, code and so on in a block of their own.'),
  id: z.unknown().optional(),
});

const headers = z.union(
  [
    z.record(z.string(), text),
    z.array(z.strictObject({ key: nonEmpty, value: text }), { error: 'must be a block, or a list of key and value' }),
  ],
  { error: ({ input }) => (input === undefined ? undefined : 'must be a block of texts, or a list of key and value') },
);

export const httpEndpointSchema = z.strictObject({
  name: resourceName.describe('What webhook sinks call it. Unique in the file.'),
  url: text
    .refine(isHttpUrl, 'must be http://host/path or https://host/path')
    .nullish()
    .describe('Where requests go; the path of the sink comes after it.'),
  local: flag.nullish().describe("true is refused: it is for the tunnel of Sequin's CLI. Give url instead."),
  path: text.nullish().describe('Of a local endpoint.'),
  'webhook.site': flag.nullish().describe('true is refused: make the address there and give it as url.'),
  headers: headers.nullish().describe('Sent with every request.'),
  encrypted_headers: headers.nullish().describe('The same; masked wherever they are shown.').meta({ secret: true }),
  max_requests_per_second: numberIn(1, 100_000)
    .nullish()
    .describe('Of all sinks of the endpoint together. Default: no limit.'),
  max_concurrency: numberIn(1, 10_000)
    .nullish()
    .describe('Requests under way at once, of all sinks of the endpoint together. Default: no limit.'),
  id: z.unknown().optional(),
});

function isHttpUrl(value: string): boolean {
  const url = URL.parse(value);
  return url !== null && /^https?:$/.test(url.protocol) && url.host !== '';
}

export type FunctionFile = z.output<typeof functionSchema>;
export type HttpEndpointFile = z.output<typeof httpEndpointSchema>;
