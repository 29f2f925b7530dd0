/** JSON Schema (draft 2020-12) as OpenAPI 3.1 embeds it: the few shapes the API is described with. */
export type Schema = { readonly [keyword: string]: unknown };

interface Text {
  readonly min?: number;
  readonly max?: number;
  readonly pattern?: string;
  readonly format?: string;
  readonly example?: string;
}

export function text(description: string, { min, max, pattern, format, example }: Text = {}): Schema {
  return {
    type: 'string',
    description,
    ...(min === undefined ? {} : { minLength: min }),
    ...(max === undefined ? {} : { maxLength: max }),
    ...(pattern === undefined ? {} : { pattern }),
    ...(format === undefined ? {} : { format }),
    ...(example === undefined ? {} : { examples: [example] }),
  };
}

/** Any of 64 bits: a client that reads it into a double loses what is beyond 2^53. */
export function u64(description: string, limits: { readonly min?: number; readonly max?: number } = {}): Schema {
  return {
    type: 'integer',
    format: 'uint64',
    minimum: limits.min ?? 0,
    ...(limits.max === undefined ? {} : { maximum: limits.max }),
    description,
  };
}

export function flag(description: string): Schema {
  return { type: 'boolean', description };
}

export function oneOf(values: readonly string[], description: string): Schema {
  return { type: 'string', enum: values, description };
}

export function list(items: Schema, description: string, limits: { min?: number; max?: number } = {}): Schema {
  return {
    type: 'array',
    items,
    description,
    ...(limits.min === undefined ? {} : { minItems: limits.min }),
    ...(limits.max === undefined ? {} : { maxItems: limits.max }),
  };
}

export function time(description: string): Schema {
  return text(description, { format: 'date-time', example: '2027-01-31T12:00:00.000Z' });
}

/** Fields whose name ends with `?` may be absent. */
export function object(description: string, fields: Readonly<Record<string, Schema>>): Schema {
  const names = Object.keys(fields);
  const required = names.filter((name) => !name.endsWith('?'));
  return {
    type: 'object',
    description,
    ...(required.length === 0 ? {} : { required }),
    properties: Object.fromEntries(names.map((name) => [name.replace(/\?$/, ''), fields[name]!])),
  };
}

/** Exactly one of the fields. */
export function choice(description: string, fields: Readonly<Record<string, Schema>>): Schema {
  return {
    description,
    oneOf: Object.entries(fields).map(([name, schema]) => ({
      type: 'object',
      required: [name],
      properties: { [name]: schema },
      additionalProperties: false,
    })),
  };
}

export function nullable(schema: Schema): Schema {
  const { type } = schema;
  if (typeof type !== 'string' || schema.enum !== undefined) return { anyOf: [schema, { type: 'null' }] };
  return { ...schema, type: [type, 'null'] };
}

export function ref(name: string): Schema {
  return { $ref: `#/components/schemas/${name}` };
}
