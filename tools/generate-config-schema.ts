/**
 * Writes docs/millrace.schema.json, which editors check millrace.yaml with: `node tools/generate-config-schema.ts`
 * (bundled Node 24). test/docs/config-schema.test.ts fails when the file is not what this makes.
 */
import { writeFileSync } from 'node:fs';
import { argv } from 'node:process';
import { fileURLToPath } from 'node:url';
import { configJsonSchema } from '@millrace/api/json-schema';

export const CONFIG_SCHEMA = new URL('../docs/millrace.schema.json', import.meta.url);

export function configSchemaText(): string {
  return `${JSON.stringify(configJsonSchema(), null, 1)}\n`;
}

if (argv[1] === fileURLToPath(import.meta.url)) writeFileSync(CONFIG_SCHEMA, configSchemaText());
