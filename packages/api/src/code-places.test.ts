import { expect, test } from 'vitest';
import { codePlaces } from './code-places.ts';

const TEXT = `functions:
  - name: block
    type: filter
    code: |
      function filter(action, record) {
        return record.id > 1;
      }
  - {name: flow, type: filter, code: '(action, record) => record.id'}
  - name: plain
    type: filter
    code: (action, record) => record.id
  - name: folded
    code: >
      a
      b
  - name: escaped
    code: "a \\"b\\""
  - name: in-a-file
    file: x.ts
transforms:
  - name: older
    transform:
      type: transform
      code: |-

        record.x
`;
const lines = TEXT.split('\n');

test('a place in code is one in the file that has it', () => {
  const places = codePlaces(TEXT);
  const at = (name: string, line: number, column: number) => {
    const place = places.get(name)!({ line, column });
    return lines[place.line - 1]!.slice(place.column - 1);
  };
  expect(at('block', 1, 10)).toBe('filter(action, record) {');
  expect(at('block', 2, 10)).toBe('record.id > 1;');
  expect(at('flow', 1, 21)).toBe("record.id'}");
  expect(at('plain', 1, 21)).toBe('record.id');
  expect(at('older', 2, 8)).toBe('x');
  // Where lines are not those of the file, where the code begins.
  expect(at('folded', 2, 1)).toBe('>');
  expect(at('escaped', 1, 3)).toBe('"a \\"b\\""');
  expect([...places.keys()]).toEqual(['block', 'flow', 'plain', 'folded', 'escaped', 'older']);
});
