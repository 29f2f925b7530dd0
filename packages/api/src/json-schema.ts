/**
 * The JSON Schema of millrace.yaml, for editors: made from the schemas that the file is read with. What is looser in it:
 * a number or a flag may be a text with a reference in it, and null stands for "not given".
 */
import * as z from 'zod';
import { configSchema } from './config-schema.ts';

const ID = 'https://millrace.dev/millrace.schema.json';

type Json = Record<string, unknown>;

export function configJsonSchema(): Json {
  const { $schema, ...schema } = toJson(configSchema);
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
        if (before._zod.def.type === 'transform') Object.assign(json, withReferences(inner(out)));
      }
      delete json.secret;
      delete json.secretPart;
    },
  }) as Json;
}

function inner(schema: z.core.$ZodType): Json {
  const { $schema: _dialect, ...json } = toJson(schema);
  return json;
}

/** What expands to text is taken where a number, a flag or one of a few words is. */
function withReferences(json: Json): Json {
  if (json.type === 'object' || json.oneOf !== undefined || json.anyOf !== undefined) return json;
  const also: Json[] = [{ type: 'string', pattern: '\\$\\{' }];
  if (json.type === 'boolean') also.push({ enum: ['true', 'false'] });
  if (json.type === 'integer') also.push({ type: 'string', pattern: '^\\d{1,15}$' });
  return { anyOf: [json, ...also] };
}
