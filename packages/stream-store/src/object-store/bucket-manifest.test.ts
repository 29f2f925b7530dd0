import fc from 'fast-check';
import { expect, test } from 'vitest';
import { encodeManifest } from '../compaction/manifest.ts';
import { PACK_FILE_BASE } from '../journal/file-names.ts';
import { type BucketBody, coveredBy, decodeBody, EMPTY_JOURNAL, type JournalBody } from './bucket-manifest.ts';
import { decodeHorizon } from './horizon.ts';

const journalId = 'ab'.repeat(16);
const blob = (n: number) => ({ tag: n.toString(16).padStart(32, '0'), bytes: 100 + n, crcs: [n] });

const main: JournalBody = {
  journalId,
  manifest: encodeManifest({
    journalId,
    marker: 7,
    generation: 2,
    base: 'checkpoint-0000000004-0000000064',
    firstSegment: 4,
    nextPack: PACK_FILE_BASE + 1,
    packs: [{ file: PACK_FILE_BASE, bytes: 101, level: 1, run: 1 }],
  }).toString(),
  base: blob(9),
  files: [
    { ...blob(1), file: PACK_FILE_BASE, index: blob(2) },
    { ...blob(3), file: 4, index: null },
    { ...blob(4), file: 5, index: blob(5) },
  ],
  walFirst: 12,
};
const body: BucketBody = { format: 1, id: 'cd'.repeat(16), mode: 'bucket', main, log: EMPTY_JOURNAL };

test('a body comes back as it was written', () => {
  expect(decodeBody(JSON.parse(JSON.stringify(body)))).toEqual(body);
  expect(coveredBy(main)).toBe(6);
  expect(coveredBy(EMPTY_JOURNAL)).toBe(1);
});

test('a body in which anything is of another kind is no body', () => {
  const paths = pathsOf(body);
  expect(paths.length).toBeGreaterThan(30);
  const strange = fc.constantFrom(undefined, -1, 1.5, 'x', true, {}, 2 ** 60);
  fc.assert(
    fc.property(fc.constantFrom(...paths), strange, (path, value) => {
      const changed = JSON.parse(JSON.stringify(body)) as Record<string, unknown>;
      let at = changed;
      for (const key of path.slice(0, -1)) at = at[key] as Record<string, unknown>;
      at[path.at(-1)!] = value;
      expect(decodeBody(changed)).toBeNull();
    }),
    { numRuns: 500 },
  );
});

test('whatever is under the key, it is a body or null, never an exception', () => {
  fc.assert(fc.property(fc.json(), (json) => void decodeBody(JSON.parse(json))));
  fc.assert(fc.property(fc.oneof(fc.json(), fc.string()), (text) => void decodeHorizon(Buffer.from(text))));
});

function pathsOf(value: unknown, path: string[] = []): string[][] {
  if (typeof value !== 'object' || value === null) return [path];
  return Object.entries(value).flatMap(([key, inner]) => pathsOf(inner, [...path, key]));
}
