import { readFileSync } from 'node:fs';
import { expect, test } from 'vitest';
import { TYPES_PAGE, typesPage } from '../../tools/generate-types-docs.ts';

test('docs/types.md is what node tools/generate-types-docs.ts makes', () => {
  expect(readFileSync(TYPES_PAGE, 'utf8')).toBe(typesPage());
});
