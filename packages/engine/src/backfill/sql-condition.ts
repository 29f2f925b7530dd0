/**
 * Whether a text is one SQL condition and stays one inside parentheses: nothing in it ends the statement, or closes a
 * parenthesis that it did not open. What it means is for Postgres to say.
 */

/** What can stand in a name; whatever follows it belongs to the name, not to a quoted text. */
const IN_NAME = /[\w$\u0080-\uffff]/;
/** A quoted text goes on in a later line, with nothing but comments in between. */
const GOES_ON = /[ \t\f\v]*(?:--[^\n\r]*)?[\n\r](?:[ \t\n\r\f\v]|--[^\n\r]*[\n\r])*'/y;

/** null: it is. Otherwise what is wrong with it. */
export function conditionFault(text: string): string | null {
  if (text.trim() === '') return 'must not be empty';
  if (text.includes('\0')) return 'must not contain a zero byte';
  let depth = 0;
  let at = 0;
  while (at < text.length) {
    const end = skipToken(text, at);
    if (end === null) return 'has a quote or comment without an end';
    if (end === at + 1) {
      const char = text[at];
      if (char === ';') return 'must be one condition, without a semicolon';
      if (char === '(') depth++;
      else if (char === ')' && --depth < 0) return 'closes a parenthesis that it did not open';
    }
    at = end;
  }
  return depth === 0 ? null : 'opens a parenthesis that it does not close';
}

/** The end of the quoted text or comment at `at`, or at + 1 where there is none; null: it has no end. */
function skipToken(text: string, at: number): number | null {
  const char = text[at];
  const inName = (before: number) => IN_NAME.test(text[before] ?? ' ');
  if (char === "'") return skipQuoted(text, at, "'", /[eE]/.test(text[at - 1] ?? '') && !inName(at - 2));
  if (char === '"') return skipQuoted(text, at, '"', false);
  if (char === '-' && text[at + 1] === '-') {
    const length = text.slice(at).search(/[\n\r]/);
    return length < 0 ? text.length : at + length;
  }
  if (char === '/' && text[at + 1] === '*') return skipComment(text, at);
  if (char === '$' && !inName(at - 1)) {
    const tag = /^\$(?:[A-Za-z_\u0080-\uffff][\w\u0080-\uffff]*)?\$/.exec(text.slice(at))?.[0];
    if (tag === undefined) return at + 1;
    const end = text.indexOf(tag, at + tag.length);
    return end < 0 ? null : end + tag.length;
  }
  return at + 1;
}

/** A doubled quote stands for itself; with `escapes` a backslash takes the meaning of what follows, in later lines too. */
function skipQuoted(text: string, at: number, quote: string, escapes: boolean): number | null {
  for (let i = at + 1; i < text.length; i++) {
    if (escapes && text[i] === '\\') i++;
    else if (text[i] === quote) {
      if (text[i + 1] === quote) i++;
      else {
        GOES_ON.lastIndex = i + 1;
        if (!escapes || !GOES_ON.test(text)) return i + 1;
        i = GOES_ON.lastIndex - 1;
      }
    }
  }
  return null;
}

/** Comments nest. */
function skipComment(text: string, at: number): number | null {
  let depth = 0;
  for (let i = at; i < text.length - 1; i++) {
    const pair = text.slice(i, i + 2);
    if (pair === '/*') depth++;
    else if (pair === '*/') depth--;
    else continue;
    i++;
    if (depth === 0) return i + 1;
  }
  return null;
}
