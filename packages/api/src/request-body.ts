/** Bodies of the management API: one zod schema each, and what a client is told when a body does not fit. */
import * as z from 'zod';

/** By field, dotted; the body itself is `body`. */
export type ValidationErrors = Readonly<Record<string, readonly string[]>>;

export type ReadBody<T> =
  | { readonly ok: true; readonly value: T }
  | { readonly ok: false; readonly errors: ValidationErrors };

/** An absent body reads as an empty object. No value of the body is quoted in the errors. */
export function readBody<T>(schema: z.ZodType<T>, body: unknown): ReadBody<T> {
  const result = schema.safeParse(body ?? {});
  if (result.success) return { ok: true, value: result.data };
  const errors: Record<string, string[]> = {};
  for (const issue of result.error.issues) {
    const path = issue.path.map(String);
    if (issue.code === 'unrecognized_keys') {
      for (const key of issue.keys) add([...path, key].join('.'), 'is not a known field');
    } else add(path.join('.') || 'body', issue.message);
  }
  return { ok: false, errors };

  function add(field: string, text: string): void {
    errors[field] = [...(errors[field] ?? []), text];
  }
}

/** For what takes no fields. */
export const emptyBody = z.strictObject({});
