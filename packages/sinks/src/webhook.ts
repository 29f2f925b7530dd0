/** HTTP requests to an endpoint of the user: a message alone, or `{"data":[...]}`. */
import * as z from 'zod';
import type { SinkKind } from './sink-kind.ts';
import {
  climbs,
  isConnectionHeader,
  isHeaderName,
  isHeaderValue,
  METHODS,
  type Method,
  PATH,
  PATH_CHARS_MAX,
  ROUTED_HEADER_CHARS_MAX,
  ROUTED_HEADERS_MAX,
} from './webhook/request-parts.ts';
import { signingKey } from './webhook/signature.ts';

export type WebhookConfig = z.output<typeof schema>;

export interface WebhookRoute {
  readonly method: Method;
  readonly endpoint_path: string;
  /** Lower-case names. */
  readonly headers: Readonly<Record<string, string>>;
}

const REQUEST_BYTES_DEFAULT = 4 * 1_048_576;
const CONCURRENCY_DEFAULT = 50;

const path = z
  .string({ error: 'must be text' })
  .max(PATH_CHARS_MAX, `must be at most ${PATH_CHARS_MAX} characters`)
  .regex(PATH, 'must be blank, or begin with /, ? or #');

const secret = z
  .string({ error: 'must be text' })
  .refine((value) => {
    const bytes = signingKey(value)?.length ?? 0;
    return bytes >= 16 && bytes <= 128;
  }, 'must be whsec_ and 16 to 128 bytes in base64; make one with: echo whsec_$(openssl rand -base64 32)')
  .meta({ secret: true });

const statuses = z
  .array(z.int().min(300, 'must be from 300 to 599').max(599, 'must be from 300 to 599'), {
    error: 'must be a list of HTTP statuses',
  })
  .default([]);

const schema = z.strictObject({
  type: z.literal('webhook'),
  http_endpoint: z
    .string({ error: ({ input }) => (input === undefined ? undefined : 'must be text') })
    .min(1, 'must not be empty')
    .describe('Name of an entry of `http_endpoints`: address, headers, limits.'),
  http_endpoint_path: path.default('').describe("Comes after the endpoint's url. Begins with `/`, `?` or `#`."),
  batch: z
    .boolean({ error: 'must be true or false' })
    .default(true)
    .describe('true: the body is `{"data":[...]}`, also for one message. false: one message is the body.'),
  partial_success: z
    .boolean({ error: 'must be true or false' })
    .default(false)
    .describe(
      'A 2xx answer may name messages of the batch that failed; only those are sent again. Of a group only one ' +
        'message is then in a request.',
    ),
  signing: z
    .strictObject({
      scheme: z.literal('standard-webhooks').default('standard-webhooks').describe('The only one.'),
      secret: secret.describe('`whsec_` and at least 16 bytes in base64.'),
      previous_secret: secret.optional().describe('While one replaces the other: requests are signed with both.'),
    })
    .optional()
    .describe('Requests are signed: headers `webhook-id`, `webhook-timestamp`, `webhook-signature`.'),
  max_concurrency: z
    .int('must be a whole number')
    .min(1, 'must be from 1 to 1000')
    .max(1000, 'must be from 1 to 1000')
    .default(CONCURRENCY_DEFAULT)
    .describe('Requests of this sink under way at once. The endpoint has a limit of its own for all its sinks.'),
  max_request_bytes: z
    .int('must be a whole number')
    .min(1_024, 'must be from 1024 to 67108864')
    .max(64 * 1_048_576, 'must be from 1024 to 67108864')
    .default(REQUEST_BYTES_DEFAULT)
    .describe('Of a body, before compression. A message that is larger alone falls under the `oversize` policy.'),
  success_statuses: statuses.describe('Statuses that are a success beside 2xx, such as 409 for "have it already".'),
  retry_statuses: statuses.describe(
    'Statuses that mean "later" there, such as 404 of a service that is being deployed.',
  ),
  ca: z
    .string({ error: 'must be text' })
    .regex(/-----BEGIN CERTIFICATE-----/, 'must be a certificate in PEM')
    .optional()
    .describe('Certificates (PEM) to trust beside the usual ones.'),
});

const routing = z.strictObject({
  method: z
    .string()
    .transform((value) => value.toUpperCase())
    .pipe(z.enum(METHODS))
    .optional()
    .describe('GET, POST, PUT, PATCH, DELETE, HEAD or OPTIONS. Default POST. GET and HEAD have no body.'),
  endpoint_path: path.optional().describe("Comes after the endpoint's url, in place of `http_endpoint_path`."),
  headers: z
    .record(z.string(), z.union([z.string(), z.number().transform(String)]))
    .optional()
    .describe("Sent beside the endpoint's; one of the same name in place of it."),
});

export const webhookKind: SinkKind<WebhookConfig, WebhookRoute> = {
  type: 'webhook',
  aliases: ['http_push'],
  title: 'Webhook',
  summary: 'Sends changes to an HTTP endpoint of yours, one by one or in batches, signed if you like.',
  schema,
  routing: routing as z.ZodType<Partial<WebhookRoute>>,
  batchSize: { default: 1, max: 1000 },
  batchTimeoutMs: 5,

  route: ({ http_endpoint_path }) => ({ method: 'POST', endpoint_path: http_endpoint_path, headers: {} }),

  checkRoute({ signing }, { method = 'POST', endpoint_path = '', headers = {} }) {
    if (climbs(endpoint_path)) return 'endpoint_path must not contain ".."';
    const given = Object.entries(headers);
    if (given.length === 0) return { method, endpoint_path, headers: NO_HEADERS };
    if (given.length > ROUTED_HEADERS_MAX) return `headers must be at most ${ROUTED_HEADERS_MAX}`;
    const lower: Record<string, string> = {};
    for (const [name, value] of given) {
      const header = name.toLowerCase();
      if (!isHeaderName(header)) return 'headers has a name that no header can have';
      if (!isHeaderValue(value) || value.length > ROUTED_HEADER_CHARS_MAX) {
        return `headers.${header} must be one line of Latin letters, at most ${ROUTED_HEADER_CHARS_MAX} of them`;
      }
      if (isConnectionHeader(header) || header === 'host' || header === 'content-encoding') {
        return `headers.${header} cannot be set by a function`;
      }
      if (signing !== undefined && header.startsWith('webhook-')) return `headers.${header} is of the signature`;
      lower[header] = value;
    }
    return { method, endpoint_path, headers: lower };
  },

  async open(config, context) {
    const { openWebhook } = await import('./webhook/webhook-sink.ts');
    return openWebhook(config, context);
  },

  example: {
    type: 'webhook',
    http_endpoint: 'shop-backend',
    http_endpoint_path: '/hooks/products',
    batch: true,
  },
};

const NO_HEADERS: Readonly<Record<string, string>> = {};
