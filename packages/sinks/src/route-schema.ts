/** What routing functions may return, as JSON Schema: for those who describe it elsewhere. */
import * as z from 'zod';
import { SINK_KINDS } from './sink-kinds.ts';

export type JsonSchema = z.core.JSONSchema.JSONSchema | boolean;

export interface RouteSchema {
  readonly type: string;
  /** For people. */
  readonly title: string;
  readonly schema: JsonSchema;
}

/** Of every kind that takes a routing function. */
export function routeSchemas(): RouteSchema[] {
  return SINK_KINDS.flatMap(({ type, title, routing }) =>
    routing === null ? [] : [{ type, title, schema: z.toJSONSchema(routing, { io: 'input', unrepresentable: 'any' }) }],
  );
}
