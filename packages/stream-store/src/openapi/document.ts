import manifest from '../../package.json' with { type: 'json' };
import { type S2Code, s2Codes } from '../s2-error.ts';
import { componentSchemas } from './component-schemas.ts';
import { API_OPERATIONS, type ApiOperation, type ApiResponse, type Content } from './operations.ts';
import { ref, type Schema, u64 } from './schema.ts';

/** The OpenAPI 3.1 document of the whole HTTP surface, as it is served at /openapi.json. */

/** What any request below /v1 can end with. */
export const COMMON_ERRORS: readonly S2Code[] = [
  'authn',
  'permission_denied',
  'request_timeout',
  'rate_limited',
  'other',
  'storage',
  'server_draining',
  'unavailable',
];

const STATUS_TEXTS: Readonly<Record<number, string>> = {
  400: 'The request cannot be understood.',
  401: 'The access token is missing, unknown, revoked or expired.',
  403: 'The access token does not permit this, or a quota is used up.',
  404: 'It does not exist.',
  408: 'The request took too long; it may still have its effect.',
  409: 'It exists already, or is being deleted.',
  412: 'A condition of the append does not hold. Nothing was appended.',
  416: 'There is nothing to read from there. Shows the tail.',
  422: 'The request is understood and not possible.',
  429: 'More than the configured rate. `retry-after-ms` says when to come back.',
  500: 'The store failed; the request may have had its effect.',
  503: 'The store stops or cannot serve now.',
};

/** The codes a request can end with, by status. */
export function errorsByStatus(operation: ApiOperation): Map<number, S2Code[]> {
  const byStatus = new Map<number, S2Code[]>();
  if (operation.permission === null) return byStatus;
  for (const code of new Set([...(operation.errors ?? []), ...COMMON_ERRORS])) {
    const { status } = s2Codes[code];
    byStatus.set(status, [...(byStatus.get(status) ?? []), code]);
  }
  return new Map([...byStatus].sort(([a], [b]) => a - b));
}

export function statusText(status: number): string {
  return STATUS_TEXTS[status] ?? '';
}

export function openApiDocument(): Schema {
  const paths: Record<string, Record<string, unknown>> = {};
  for (const operation of API_OPERATIONS) {
    paths[operation.path] = { ...paths[operation.path], [operation.method]: operationObject(operation) };
  }
  return {
    openapi: '3.1.0',
    info: {
      title: 'Millrace stream store',
      version: manifest.version,
      summary: "Durable streams behind S2's HTTP API.",
      description:
        'Errors have a JSON body with a stable `code`, except 412 and 416. Integers are of 64 bits. ' +
        'Fields that are not described here are ignored in requests.',
      license: { name: 'Apache-2.0', identifier: 'Apache-2.0' },
    },
    servers: [{ url: '/' }],
    tags: [...new Set(API_OPERATIONS.map(({ tag }) => tag))].map((name) => ({ name })),
    security: [{ accessToken: [] }],
    paths,
    components: {
      schemas: componentSchemas,
      securitySchemes: {
        accessToken: {
          type: 'http',
          scheme: 'bearer',
          description: 'An access token. A server with --no-auth takes any.',
        },
      },
    },
  };
}

function operationObject(operation: ApiOperation): Schema {
  const { id, tag, summary, description, permission, parameters, request } = operation;
  return {
    operationId: id,
    tags: [tag],
    summary,
    ...(description === undefined ? {} : { description }),
    ...(permission === null ? { security: [] } : { 'x-permission': permission }),
    ...(parameters === undefined ? {} : { parameters: parameters.map(parameterObject) }),
    ...(request === undefined
      ? {}
      : { requestBody: { required: request.required, content: contentObject(request.content) } }),
    responses: {
      ...Object.fromEntries(
        Object.entries(operation.responses).map(([status, response]) => [status, responseObject(response)]),
      ),
      ...Object.fromEntries(
        [...errorsByStatus(operation)].map(([status, codes]) => [status, errorObject(status, codes)]),
      ),
    },
  };
}

function parameterObject({ required, schema, ...parameter }: NonNullable<ApiOperation['parameters']>[number]): Schema {
  const { description, ...type } = schema;
  return { ...parameter, description, required: required ?? false, schema: type };
}

function responseObject({ description, headers = [], content }: ApiResponse): Schema {
  return {
    description,
    ...(headers.length === 0
      ? {}
      : { headers: Object.fromEntries(headers.map(({ name, schema }) => [name, { schema }])) }),
    ...(content === undefined ? {} : { content: contentObject(content) }),
  };
}

function contentObject(content: Content): Schema {
  return Object.fromEntries(Object.entries(content).map(([type, schema]) => [type, { schema }]));
}

function errorObject(status: number, codes: readonly S2Code[]): Schema {
  const headers = status === 429 ? [{ name: 'retry-after-ms', schema: u64('Milliseconds.') }] : [];
  return responseObject({
    description: statusText(status),
    headers,
    content: { 'application/json': errorSchema(status, codes) },
  });
}

function errorSchema(status: number, codes: readonly S2Code[]): Schema {
  if (status === 412) return ref('AppendConditionFailed');
  if (status === 416) return ref('Tail');
  return { allOf: [ref('Error')], properties: { code: { enum: codes } } };
}
