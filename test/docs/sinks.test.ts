import { existsSync, readFileSync } from 'node:fs';
import { fileURLToPath } from 'node:url';
import { expect, test } from 'vitest';
import { parse } from 'yaml';
import { KINDS, pageFile, sinkPage } from '../../tools/generate-sink-docs.ts';

const pages = KINDS.map((kind) => ({ kind, type: kind.type, file: fileURLToPath(pageFile(kind)) }));

test.each(pages)('the page of $type is what node tools/generate-sink-docs.ts makes', ({ kind, file }) => {
  expect(existsSync(file), `${file} is missing`).toBe(true);
  const page = readFileSync(file, 'utf8');
  expect(page).toBe(sinkPage(kind, page));
});

test.each(pages)('the page of $type names every key of its schema', ({ kind, file }) => {
  const page = readFileSync(file, 'utf8');
  const keys = Object.keys(kind.example).filter((key) => key !== 'type');
  expect(keys.filter((key) => !page.includes(`| \`${key}\` |`))).toEqual([]);
});

test.each(pages)('every destination of that type on the page of $type is valid', ({ kind, file }) => {
  const blocks = [...readFileSync(file, 'utf8').matchAll(/^```yaml\n([\s\S]*?)^```/gm)].map(([, text]) => text ?? '');
  const found = blocks.flatMap((text) => destinations(parse(text)));
  const ours = found.filter(({ type }) => type === kind.type || kind.aliases?.includes(String(type)));
  expect(ours.length).toBeGreaterThan(0);
  for (const destination of ours) expect(kind.schema.safeParse(destination).error).toBeUndefined();
});

/** Wherever they are in a configuration, or a part of one. */
function destinations(value: unknown): Record<string, unknown>[] {
  if (Array.isArray(value)) return value.flatMap(destinations);
  if (typeof value !== 'object' || value === null) return [];
  return Object.entries(value).flatMap(([key, inner]) =>
    key === 'destination' && typeof inner === 'object' && inner !== null
      ? [inner as Record<string, unknown>]
      : destinations(inner),
  );
}
