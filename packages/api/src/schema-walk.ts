/** Going through a zod schema beside a value: for suggestions, secrets and defaults. */
import { sinkKind } from '@millrace/sinks/sink-kinds';
import type * as z from 'zod';

type Schema = z.core.$ZodType;

/** The schema inside of what only says that it may be missing, or what is done to the value before. */
export function unwrapped(schema: Schema): Schema {
  let inner = schema;
  for (let next = innerOf(inner); next !== null; next = innerOf(inner)) inner = next;
  return inner;
}

/** Of several forms, the block that this value means to be: by its `type`, else the first block or list of blocks. */
export function formOf(schema: Schema, value: unknown): Schema {
  const inner = unwrapped(schema);
  if (inner._zod.def.type !== 'union') return inner;
  const options = (inner as z.ZodUnion).options.map(unwrapped);
  const given = (value as { readonly type?: unknown } | null | undefined)?.type;
  const type = typeof given === 'string' ? (sinkKind(given)?.type ?? given) : given;
  const byType = options.find((option) => {
    if (option._zod.def.type !== 'object') return false;
    const literal = (option as z.ZodObject).shape.type;
    return literal !== undefined && unwrapped(literal)._zod.values?.has(type as never) === true;
  });
  if (byType !== undefined) return byType;
  const wanted = Array.isArray(value) ? 'array' : 'object';
  return options.find((option) => option._zod.def.type === wanted) ?? options[0] ?? inner;
}

/** The schema of a key of a block, or of an entry of a list; undefined: there is no such key. */
export function schemaAt(schema: Schema, value: unknown, part: string | number): Schema | undefined {
  const form = formOf(schema, value);
  const { type } = form._zod.def;
  if (type === 'array') return (form as z.ZodArray).element;
  if (type === 'record') return (form as z.ZodRecord).valueType;
  if (type === 'object') {
    const { shape } = form as z.ZodObject;
    return Object.hasOwn(shape, part) ? shape[part] : undefined;
  }
  return undefined;
}

/** The keys that a block at this place may have. */
export function keysOf(schema: Schema, value: unknown): readonly string[] {
  const form = formOf(schema, value);
  return form._zod.def.type === 'object' ? Object.keys((form as z.ZodObject).shape) : [];
}

/** What `.meta()` said, on whichever layer. */
export function metaOf(schema: Schema): Readonly<Record<string, unknown>> {
  const found: Record<string, unknown> = {};
  for (let inner: Schema | null = schema; inner !== null; inner = innerOf(inner)) {
    for (const [key, value] of Object.entries((inner as z.ZodType).meta?.() ?? {})) found[key] ??= value;
  }
  return found;
}

/** One layer further in. */
function innerOf(schema: Schema): Schema | null {
  const { def } = schema._zod;
  if (def.type === 'pipe') {
    // Something done before the schema (preprocess), or after it (transform).
    const { in: before, out } = def as unknown as { readonly in: Schema; readonly out: Schema };
    return before._zod.def.type === 'transform' ? out : before;
  }
  return (def as unknown as { readonly innerType?: Schema }).innerType ?? null;
}
