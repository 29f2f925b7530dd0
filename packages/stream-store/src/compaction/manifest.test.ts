import { expect, test } from 'vitest';
import { PACK_FILE_BASE } from '../journal/file-names.ts';
import { decodeManifest, encodeManifest, type Manifest } from './manifest.ts';

const MANIFEST: Manifest = {
  journalId: '00112233445566778899aabbccddeeff',
  marker: 0xfedcba98,
  generation: 7,
  base: 'checkpoint-0000000042-0000001234',
  firstSegment: 40,
  packs: [
    { file: PACK_FILE_BASE + 3, bytes: 1000, level: 2, run: 4 },
    { file: PACK_FILE_BASE + 9, bytes: 64, level: 1, run: 7 },
  ],
  nextPack: PACK_FILE_BASE + 10,
};

function withField(change: Record<string, unknown>): Buffer {
  return encodeManifest({ ...MANIFEST, ...change } as Manifest);
}

test('a manifest comes back as it was written', () => {
  expect(decodeManifest(encodeManifest(MANIFEST))).toMatchObject(MANIFEST);
  expect(decodeManifest(encodeManifest({ ...MANIFEST, packs: [] }))).toMatchObject({ packs: [] });
});

test('no flipped bit and no cut is taken for a manifest', () => {
  const bytes = encodeManifest(MANIFEST);
  for (let bit = 0; bit < bytes.length * 8; bit++) {
    const damaged = Buffer.from(bytes);
    damaged[bit >> 3] = damaged[bit >> 3]! ^ (1 << (bit & 7));
    expect(decodeManifest(damaged)).toBeNull();
  }
  for (let end = 0; end < bytes.length; end++) expect(decodeManifest(bytes.subarray(0, end))).toBeNull();
});

test.each([
  ['a base that is no checkpoint', { base: 'checkpoint' }],
  ['a pack twice', { packs: [MANIFEST.packs[0], MANIFEST.packs[0]] }],
  ['a pack whose number was never given', { packs: [{ ...MANIFEST.packs[0], file: PACK_FILE_BASE + 10 }] }],
  ['a segment among the packs', { packs: [{ ...MANIFEST.packs[0], file: 3 }] }],
  ['no segment', { firstSegment: 0 }],
  ['no generation', { generation: 0 }],
  ['a foreign id', { journalId: 'x' }],
])('a manifest with %s is refused, whole as it is', (_what, change) => {
  expect(decodeManifest(withField(change))).toBeNull();
});
