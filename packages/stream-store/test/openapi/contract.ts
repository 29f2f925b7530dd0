import { Ajv2020 } from 'ajv/dist/2020.js';
import { openApiDocument } from '../../src/openapi/document.ts';
import { API_OPERATIONS, type ApiOperation } from '../../src/openapi/operations.ts';
import type { Schema } from '../../src/openapi/schema.ts';
import type { Answer } from '../serve.ts';

/** Holds answers of the real server against the document it serves. */

interface MediaTypes {
  readonly [type: string]: { readonly schema: Schema };
}

interface DocumentedResponse {
  readonly headers?: Readonly<Record<string, unknown>>;
  readonly content?: MediaTypes;
}

interface DocumentedOperation {
  readonly operationId: string;
  readonly requestBody?: { readonly content: MediaTypes };
  readonly responses: Readonly<Record<string, DocumentedResponse>>;
}

const { paths, components } = openApiDocument() as {
  paths: Record<string, Record<string, DocumentedOperation>>;
  components: { schemas: Record<string, Schema> };
};

export const OPERATIONS_BY_ID = new Map(API_OPERATIONS.map((operation) => [operation.id, operation]));

const ajv = new Ajv2020({ strict: false, formats: { uint64: true, 'date-time': /^\d{4}-\d\d-\d\dT[\d:.]+Z$/ } });
const compiled = new Map<Schema, ReturnType<typeof ajv.compile>>();
const compiledOpen = new Map<Schema, ReturnType<typeof ajv.compile>>();

/** An answer may have no field that is not described, though clients have to bear one. */
function closed(schema: unknown): unknown {
  if (Array.isArray(schema)) return schema.map(closed);
  if (typeof schema !== 'object' || schema === null) return schema;
  const inner = Object.fromEntries(Object.entries(schema).map(([key, value]) => [key, closed(value)]));
  const isObject = [inner.type].flat().includes('object') && inner.properties !== undefined;
  return isObject && inner.additionalProperties === undefined ? { ...inner, additionalProperties: false } : inner;
}

/** The problems of a value, as text; empty: none. `open`: with fields that the schema does not name. */
export function problemsOf(schema: Schema, value: unknown, fields: 'closed' | 'open' = 'closed'): string {
  const known = fields === 'closed' ? compiled : compiledOpen;
  let validate = known.get(schema);
  if (validate === undefined) {
    const whole = { ...schema, components };
    validate = ajv.compile(fields === 'closed' ? (closed(whole) as Schema) : whole);
    known.set(schema, validate);
  }
  return validate(value) ? '' : ajv.errorsText(validate.errors);
}

function documented({ path, method }: ApiOperation): DocumentedOperation {
  return paths[path]![method]!;
}

export function requestSchema(operation: ApiOperation): Schema | undefined {
  return documented(operation).requestBody?.content['application/json']?.schema;
}

/** What about an answer is not as the document says; empty: all is. */
export function violationsOf(operation: ApiOperation, answer: Answer): string[] {
  const response = documented(operation).responses[answer.status];
  if (response === undefined) return [`status ${answer.status} is not documented: ${answer.text}`];
  const violations: string[] = [];
  for (const name of Object.keys(response.headers ?? {})) {
    if (answer.headers[name] === undefined) violations.push(`the header ${name} is missing`);
  }
  const type = answer.headers['content-type']?.split(';')[0];
  if (response.content === undefined) {
    if (type !== undefined || answer.body.length > 0) violations.push(`${answer.status} should have no body`);
    return violations;
  }
  const media = response.content[type ?? ''];
  if (media === undefined) return [...violations, `content type ${type} is not documented`];
  if (type !== 'application/json') return violations;
  const problems = problemsOf(media.schema, answer.json);
  if (problems !== '') violations.push(`${problems}: ${answer.text}`);
  return violations;
}
