/** JSON whose integers beyond 2^53 - 1 come out of `JSON.stringify` as they went in. */

/** Such an integer becomes an object that prints as its digits and is good for nothing else. */
export function parseExactJson(text: string): unknown {
  return JSON.parse(text, exactInteger as never);
}

/** Node has both; the types of the language come later. */
const { rawJSON } = JSON as typeof JSON & { rawJSON(text: string): unknown };

function exactInteger(_name: string, value: unknown, context: { readonly source?: string }): unknown {
  if (typeof value !== 'number' || Number.isSafeInteger(value)) return value;
  const { source } = context;
  return source !== undefined && /^-?\d+$/.test(source) ? rawJSON(source) : value;
}
