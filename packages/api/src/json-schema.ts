/**
 * The JSON Schema of millrace.yaml, for editors: made from the schemas that the file is read with. What is looser in it:
 * a number or a flag may be a text with a reference in it, and null stands for "not given".
 */
import { isDeepStrictEqual } from 'node:util';
import { sinkKind } from '@millrace/sinks/sink-kinds';
import * as z from 'zod';
import { configSchema } from './config-schema.ts';

const ID = 'https://millrace.dev/millrace.schema.json';

type Json = Record<string, unknown>;

export function configJsonSchema(): Json {
  const { $schema, ...schema } = toJson(configSchema);
  for (const destination of destinationsIn(schema)) loosen(destination);
  return {
    $schema,
    $id: ID,
    title: 'millrace.yaml',
    description: 'Configuration of Millrace: databases, sinks, functions, HTTP endpoints. A sequin.yaml fits as well.',
    ...schema,
  };
}

function toJson(schema: z.core.$ZodType): Json {
  return z.toJSONSchema(schema, {
    target: 'draft-7',
    io: 'input',
    reused: 'inline',
    unrepresentable: 'any',
    override({ zodSchema, jsonSchema }) {
      const json = jsonSchema as Json;
      const { def } = zodSchema._zod;
      if (def.type === 'pipe') {
        const { in: before, out } = def as unknown as { readonly in: z.core.$ZodType; readonly out: z.core.$ZodType };
        if (before._zod.def.type === 'transform') replace(json, withReferences(inner(out), json.flag === true));
      }
      const isForm = json.pattern !== undefined || json.enum !== undefined;
      if (json.type === 'string' && isForm) replace(json, withReferences({ ...json }));
      delete json.flag;
      delete json.secret;
      delete json.secretPart;
    },
  }) as Json;
}

/** Its description stays. */
function replace(json: Json, other: Json): void {
  for (const key of Object.keys(json)) if (key !== 'description') delete json[key];
  Object.assign(json, other);
}

function inner(schema: z.core.$ZodType): Json {
  const { $schema: _dialect, ...json } = toJson(schema);
  return json;
}

/** The schema of each type of destination. */
function destinationsIn(json: unknown): Json[] {
  if (Array.isArray(json)) return json.flatMap(destinationsIn);
  if (typeof json !== 'object' || json === null) return [];
  const own = (json as { readonly destination?: { readonly oneOf?: Json[] } }).destination?.oneOf ?? [];
  return [...own, ...Object.values(json).flatMap(destinationsIn)];
}

/** What plainBlock does to a destination before its kind sees it. */
function loosen(destination: Json): void {
  const properties = destination.properties as Record<string, Json>;
  const required = (destination.required ?? []) as readonly string[];
  const { const: type } = properties.type as { const?: string };
  const kind = type === undefined ? undefined : sinkKind(type);
  for (const [key, json] of Object.entries(properties)) {
    const { description, ...rest } = json;
    const loose = ['boolean', 'integer', 'number'].includes(String(rest.type)) ? withReferences(rest) : rest;
    const forms = (loose.anyOf as Json[] | undefined) ?? [loose];
    const known = forms.some((form) => form.type === 'null');
    replace(json, required.includes(key) || known ? loose : { anyOf: [...forms, { type: 'null' }] });
  }
  if (kind !== undefined) properties.type = { enum: [kind.type, ...(kind.aliases ?? [])] };
}

/** What expands to text is taken where a number, a flag, one of a few words or a text of a certain form is. */
function withReferences(json: Json, orFlag = false): Json {
  if (json.type === 'object' || json.oneOf !== undefined) return json;
  const { description, ...own } = json;
  const forms = (own.anyOf as Json[] | undefined) ?? [own];
  const also: Json[] = [REFERENCE];
  if (orFlag) also.push({ type: 'boolean' });
  if (own.type === 'boolean') also.push({ enum: ['true', 'false'] });
  if (own.type === 'integer') also.push({ type: 'string', pattern: '^\\d{1,15}$' });
  const fresh = also.filter((form) => !forms.some((there) => isDeepStrictEqual(there, form)));
  return { ...(description !== undefined && { description }), anyOf: [...forms, ...fresh] };
}

const REFERENCE: Json = { type: 'string', pattern: '\\$\\{' };
