import { readFileSync } from 'node:fs';
import { componentSchemas } from '@millrace/stream-store/openapi/component-schemas';
import { API_OPERATIONS } from '@millrace/stream-store/openapi/operations';
import { expect, test } from 'vitest';
import { API_PAGE, apiPage } from '../../tools/generate-api-docs.ts';

const page = readFileSync(API_PAGE, 'utf8');

test('docs/api.md is what node tools/generate-api-docs.ts makes', () => {
  expect(page).toBe(apiPage());
});

test('docs/api.md has every operation and every body', () => {
  for (const { method, path } of API_OPERATIONS) expect(page).toContain(`\`${method.toUpperCase()} ${path}\``);
  for (const name of Object.keys(componentSchemas)) expect(page).toContain(`### ${name}\n`);
  expect(page).not.toMatch(/undefined|\[object/);
});
