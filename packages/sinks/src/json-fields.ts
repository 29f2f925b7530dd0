/**
 * The top level of a JSON object, field by field, without parsing what is below it: a bigint stays the digits it was,
 * where JSON.parse would round it to a double.
 *
 * HOT PATH
 */

const QUOTE = 0x22;
const BACKSLASH = 0x5c;
const COMMA = 0x2c;
const COLON = 0x3a;
const OPEN_OBJECT = 0x7b;
const CLOSE_OBJECT = 0x7d;
const OPEN_LIST = 0x5b;
const CLOSE_LIST = 0x5d;

/**
 * Name, value, name, value and so on: a value that is a JSON string as the text it stands for, any other one as the JSON
 * it is. null: this is no JSON object.
 */
export function jsonFields(json: string): string[] | null {
  const fields: string[] = [];
  let at = skipSpace(json, 0);
  if (json.charCodeAt(at) !== OPEN_OBJECT) return null;
  at = skipSpace(json, at + 1);
  if (json.charCodeAt(at) === CLOSE_OBJECT) return skipSpace(json, at + 1) === json.length ? fields : null;
  for (;;) {
    const nameEnd = endOfString(json, at);
    if (nameEnd === -1) return null;
    const name = textOf(json, at, nameEnd);
    if (name === null) return null;
    at = skipSpace(json, nameEnd);
    if (json.charCodeAt(at) !== COLON) return null;
    at = skipSpace(json, at + 1);
    const isText = json.charCodeAt(at) === QUOTE;
    const end = isText ? endOfString(json, at) : endOfValue(json, at);
    if (end <= at) return null;
    const value = isText ? textOf(json, at, end) : json.slice(at, end);
    if (value === null) return null;
    fields.push(name, value);
    at = skipSpace(json, end);
    const next = json.charCodeAt(at);
    if (next === CLOSE_OBJECT) return skipSpace(json, at + 1) === json.length ? fields : null;
    if (next !== COMMA) return null;
    at = skipSpace(json, at + 1);
  }
}

function skipSpace(json: string, from: number): number {
  let at = from;
  for (;;) {
    const code = json.charCodeAt(at);
    if (code !== 0x20 && code !== 0x0a && code !== 0x0d && code !== 0x09) return at;
    at++;
  }
}

/** Behind the closing quote; -1: there is none, or no opening one at `from`. */
function endOfString(json: string, from: number): number {
  if (json.charCodeAt(from) !== QUOTE) return -1;
  for (let at = from + 1; at < json.length; at++) {
    const code = json.charCodeAt(at);
    if (code === QUOTE) return at + 1;
    if (code === BACKSLASH) at++;
  }
  return -1;
}

/** Behind an object, a list, a number or a word; -1: it does not end. */
function endOfValue(json: string, from: number): number {
  let depth = 0;
  for (let at = from; at < json.length; at++) {
    const code = json.charCodeAt(at);
    if (code === QUOTE) {
      at = endOfString(json, at) - 1;
      if (at < from) return -1;
    } else if (code === OPEN_OBJECT || code === OPEN_LIST) {
      depth++;
    } else if (code === CLOSE_OBJECT || code === CLOSE_LIST) {
      if (depth === 0) return at;
      depth--;
      if (depth === 0) return at + 1;
    } else if (depth === 0 && (code === COMMA || code <= 0x20)) {
      return at;
    }
  }
  return -1;
}

/** The text between two quotes. Only one with escapes needs a parser. */
function textOf(json: string, from: number, to: number): string | null {
  const text = json.slice(from + 1, to - 1);
  return text.includes('\\') ? unescaped(json.slice(from, to)) : text;
}

function unescaped(literal: string): string | null {
  try {
    return JSON.parse(literal) as string;
  } catch {
    return null;
  }
}
