/**
 * Writes docs/api.md from packages/stream-store/src/openapi/: `node tools/generate-api-docs.ts` (bundled Node 24).
 * test/docs/api.test.ts fails when the page is not what this makes.
 */
import { writeFileSync } from 'node:fs';
import { argv } from 'node:process';
import { fileURLToPath } from 'node:url';
import { componentSchemas } from '@millrace/stream-store/openapi/component-schemas';
import { COMMON_ERRORS, errorsByStatus, statusText } from '@millrace/stream-store/openapi/document';
import { API_OPERATIONS, type ApiOperation, type Content } from '@millrace/stream-store/openapi/operations';
import type { Schema } from '@millrace/stream-store/openapi/schema';

export const API_PAGE = new URL('../docs/api.md', import.meta.url);

const INTRODUCTION = `# HTTP API of the stream store

<!-- Made by tools/generate-api-docs.ts from packages/stream-store/src/openapi/. Do not edit. -->

S2's HTTP API, as this server has it. The server serves the same description as OpenAPI 3.1 at \`/openapi.json\`. For how the
parts play together see [stream-store.md](stream-store.md).

* Every request below \`/v1\` carries \`authorization: Bearer TOKEN\`, unless the server runs with \`--no-auth\`. What the token
  needs stands with each operation.
* A request about streams or records names its basin in the header \`s2-basin\`.
* Bodies are JSON unless said otherwise. Integers have up to 64 bits; a client that reads them as doubles loses what is beyond
  2^53. Fields that are not described here are ignored in requests.
* Request bodies may be compressed (\`content-encoding\`: gzip, deflate, br, zstd); so are answers above 1 KiB when
  \`accept-encoding\` allows it.
* An error is \`{"code": ..., "message": ...}\`. The code is stable, the message is for people. Statuses 412 and 416 have bodies of
  their own. A path that does not exist is answered with 404 \`not_found\`, a method it does not take with 405
  \`method_not_allowed\`.
`;

export function apiPage(): string {
  const parts = [INTRODUCTION, commonErrors()];
  for (const tag of new Set(API_OPERATIONS.map((operation) => operation.tag))) {
    parts.push(`## ${tag}\n`);
    for (const operation of API_OPERATIONS) if (operation.tag === tag) parts.push(operationSection(operation));
  }
  parts.push('## Bodies\n');
  for (const [name, schema] of Object.entries(componentSchemas)) parts.push(schemaSection(name, schema));
  return `${parts.join('\n').trimEnd()}\n`;
}

/** The statuses whose codes no operation adds to are the same everywhere. */
function commonErrors(): string {
  const { permission, ...nothing } = { ...API_OPERATIONS[0]!, errors: [] };
  const rows = [...errorsByStatus({ ...nothing, permission })].map(
    ([status, codes]) => `| ${status} | ${codes.map(code).join(', ')} | ${statusText(status)} |`,
  );
  return `Any request below \`/v1\` can end with these:\n\n| status | code | meaning |\n|---|---|---|\n${rows.join('\n')}\n`;
}

function operationSection(operation: ApiOperation): string {
  const { method, path, summary, description, permission, parameters = [], request } = operation;
  const lines = [`### ${summary}`, '', `\`${method.toUpperCase()} ${path}\``, ''];
  if (description !== undefined) lines.push(description, '');
  lines.push(permission === null ? 'Needs no token.' : `Operation: \`${permission}\`.`, '');
  if (parameters.length > 0) {
    lines.push('| parameter | in | type | meaning |', '|---|---|---|---|');
    for (const { name, in: place, required, schema } of parameters) {
      const mark = required === true && place === 'query' ? ' (required)' : '';
      lines.push(`| \`${name}\`${mark} | ${place} | ${typeOf(schema)} | ${descriptionOf(schema)} |`);
    }
    lines.push('');
  }
  if (request !== undefined) {
    lines.push(`Body${request.required ? '' : ' (may be left out)'}: ${contentText(request.content)}`, '');
  }
  lines.push('| status | body | meaning |', '|---|---|---|');
  for (const [status, response] of Object.entries(operation.responses)) {
    const body = response.content === undefined ? 'none' : contentText(response.content);
    lines.push(`| ${status} | ${body} | ${cell(response.description)} |`);
  }
  for (const [status, codes] of errorsByStatus(operation)) {
    const own = codes.filter((code) => !COMMON_ERRORS.includes(code));
    if (own.length > 0) lines.push(`| ${status} | ${errorBody(status, own.map(code))} | ${statusText(status)} |`);
  }
  lines.push('');
  return lines.join('\n');
}

function errorBody(status: number, codes: readonly string[]): string {
  if (status === 412) return link('AppendConditionFailed');
  if (status === 416) return link('Tail');
  return codes.join(', ');
}

function schemaSection(name: string, schema: Schema): string {
  const lines = [`### ${name}`, '', descriptionOf(schema), ''];
  const choices = (schema.oneOf as readonly Schema[] | undefined)?.flatMap((choice) =>
    Object.entries(choice.properties as Record<string, Schema>),
  );
  const fields = choices ?? Object.entries((schema.properties ?? {}) as Record<string, Schema>);
  if (fields.length === 0) return `${lines.join('\n')}\nType: ${typeOf(schema)}.\n`;
  if (choices !== undefined) lines.push('One of:', '');
  const required = new Set(choices === undefined ? ((schema.required ?? []) as string[]) : fields.map(([key]) => key));
  lines.push(
    '| field | type | meaning |',
    '|---|---|---|',
    ...fields.flatMap(([key, field]) => rows(key, field, required.has(key))),
  );
  return `${lines.join('\n')}\n`;
}

/** One for the field, and one for each field of an object in it. */
function rows(name: string, schema: Schema, required: boolean): string[] {
  const mark = required ? '' : ' (optional)';
  const inner = Object.entries((schema.properties ?? {}) as Record<string, Schema>);
  const requiredInside = new Set((schema.required ?? []) as string[]);
  return [
    `| \`${name}\`${mark} | ${typeOf(schema)} | ${descriptionOf(schema)} |`,
    ...inner.flatMap(([key, field]) => rows(`${name}.${key}`, field, requiredInside.has(key))),
  ];
}

function contentText(content: Content): string {
  return Object.entries(content)
    .map(([type, schema]) => {
      const about = schema.$ref === undefined && schema.type === undefined ? descriptionOf(schema) : typeOf(schema);
      return type === 'application/json' ? about : `${type}: ${about}`;
    })
    .join('; ');
}

function typeOf(schema: Schema): string {
  if (typeof schema.$ref === 'string') return link(schema.$ref.split('/').at(-1)!);
  if (Array.isArray(schema.anyOf)) return schema.anyOf.map((one: Schema) => typeOf(one)).join(' or ');
  if (Array.isArray(schema.oneOf)) return 'object';
  if (Array.isArray(schema.enum)) return schema.enum.length > 6 ? 'string' : schema.enum.map(code).join(' or ');
  if (schema.items !== undefined) return `list of ${typeOf(schema.items as Schema)}`;
  if (schema.prefixItems !== undefined)
    return `\`[${(schema.prefixItems as Schema[]).map((item) => item.type).join(', ')}]\``;
  const types = [schema.type].flat() as string[];
  return types.map((type) => (type === 'integer' ? 'u64' : type)).join(' or ');
}

function descriptionOf(schema: Schema): string {
  if (typeof schema.description === 'string') return cell(schema.description);
  const [first] = (schema.anyOf ?? []) as readonly Schema[];
  return first === undefined ? '' : descriptionOf(first);
}

function cell(text: string): string {
  return text.replaceAll('|', '\\|');
}

function code(text: string): string {
  return `\`${text}\``;
}

function link(name: string): string {
  return `[${name}](#${name.toLowerCase()})`;
}

if (argv[1] === fileURLToPath(import.meta.url)) writeFileSync(API_PAGE, apiPage());
