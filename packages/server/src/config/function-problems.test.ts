import { mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { expect, test } from 'vitest';
import { loadConfigFile } from './function-problems.ts';

test('code that cannot be parsed is told by line, of its file where it is in one', () => {
  const dir = mkdtempSync(join(tmpdir(), 'millrace-problems-'));
  try {
    const code = 'export function filter(action, record) {\n  return record.;\n}\n';
    writeFileSync(join(dir, 'paid.ts'), code);
    const file = join(dir, 'millrace.yaml');
    const problemOf = (body: object) =>
      expect(() =>
        loadConfigFile(JSON.stringify({ functions: [{ name: 'f', type: 'filter', ...body }] }), { file, env: {} }),
      );
    problemOf({ file: 'paid.ts' }).toThrow(/functions "f"\.file: line 2 of paid\.ts: /);
    problemOf({ code }).toThrow(/functions "f"\.code: line 2 of it: /);
  } finally {
    rmSync(dir, { recursive: true, force: true });
  }
});
