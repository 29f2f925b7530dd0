/** Where code that stands in a configuration file is in that file, for what is said of its lines and columns. */
import { isMap, isScalar, isSeq, LineCounter, parseDocument, type Scalar, type YAMLMap } from 'yaml';

/** From 1, as the code counts and as the file does. */
export interface Place {
  readonly line: number;
  readonly column: number;
}

export type PlaceInFile = (inCode: Place) => Place;

/** By name of the function; those without code in the file are not there. */
export function codePlaces(text: string): ReadonlyMap<string, PlaceInFile> {
  const counter = new LineCounter();
  const document = parseDocument(text, { lineCounter: counter });
  const places = new Map<string, PlaceInFile>();
  for (const key of ['functions', 'transforms']) {
    const list = document.get(key, true);
    if (!isSeq(list)) continue;
    for (const item of list.items) {
      if (!isMap(item)) continue;
      const name = item.get('name');
      const code = codeOf(item);
      if (typeof name === 'string' && code !== null) places.set(name, placeIn(text, counter, code));
    }
  }
  return places;
}

/** Also in the block of its own that older files have. */
function codeOf(item: YAMLMap): Scalar<string> | null {
  const node =
    item.get('code', true) ?? item.getIn(['function', 'code'], true) ?? item.getIn(['transform', 'code'], true);
  return isScalar(node) && typeof node.value === 'string' ? (node as Scalar<string>) : null;
}

function placeIn(text: string, counter: LineCounter, { range, type, value }: Scalar<string>): PlaceInFile {
  const start = counter.linePos(range![0]);
  const first = { line: start.line, column: start.col };
  const lines = value.split('\n');
  if (type === 'BLOCK_LITERAL') {
    const fileLines = text.split('\n');
    // The code begins in the line after its `|`, and each line is indented.
    return ({ line, column }) => {
      const own = lines[line - 1] ?? '';
      const whole = (fileLines[start.line + line - 1] ?? '').replace(/\r$/, '');
      const indent = whole.endsWith(own) ? whole.length - own.length : 0;
      return { line: start.line + line, column: indent + column };
    };
  }
  // As it stands, in quotes or not; otherwise its lines and columns are not those of the file.
  const quote = type === 'PLAIN' ? 0 : 1;
  const at = range![0] + quote;
  if (lines.length > 1 || text.slice(at, at + value.length) !== value) return () => first;
  return ({ column }) => ({ line: first.line, column: first.column + quote + column - 1 });
}
