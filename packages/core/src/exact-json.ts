/** JSON whose numbers stay as they were written: an int8 or a numeric is more than a double holds. */

/** Node has it; the types that come with this version of TypeScript do not. */
const { rawJSON } = JSON as unknown as { readonly rawJSON: (text: string) => unknown };

/** As JSON.parse, but numbers are what JSON.stringify writes as they were. Throws a SyntaxError. */
export function parseExactJson(text: string): unknown {
  return JSON.parse(text, asWritten);
}

function asWritten(_key: string, value: unknown, context?: { readonly source?: string }): unknown {
  return typeof value === 'number' && context?.source !== undefined ? rawJSON(context.source) : value;
}
