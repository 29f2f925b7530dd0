/**
 * What every block of a kind of sink may rely on: a key with null is one that was not given, a variable that expands to
 * digits is a number where the schema wants one, and an older name of the type is the type.
 */
import { sinkKind } from '@millrace/sinks/sink-kinds';
import type * as z from 'zod';
import { unwrapped } from './schema-walk.ts';

export function plainBlock(value: unknown, schema: z.core.$ZodType | null): unknown {
  if (schema === null || typeof value !== 'object' || value === null || Array.isArray(value)) return value;
  const block = unwrapped(schema);
  const shape = block._zod.def.type === 'object' ? (block as z.ZodObject).shape : {};
  const plain: Record<string, unknown> = {};
  for (const [key, given] of Object.entries(value)) {
    if (given === null) continue;
    const inner = Object.hasOwn(shape, key) ? shape[key] : undefined;
    plain[key] = inner === undefined ? given : scalar(given, unwrapped(inner)._zod.def.type);
  }
  if (typeof plain.type === 'string') plain.type = sinkKind(plain.type)?.type ?? plain.type;
  return plain;
}

function scalar(value: unknown, type: string): unknown {
  if (typeof value !== 'string') return value;
  if (type === 'boolean' && (value === 'true' || value === 'false')) return value === 'true';
  if ((type === 'number' || type === 'int') && /^-?\d{1,15}$/.test(value)) return Number(value);
  return value;
}
