import { randomBytes } from 'node:crypto';
import fc from 'fast-check';
import { expect, test } from 'vitest';
import { BlockCache } from './block-cache.ts';
import { BLOCK_BYTES, PART_BYTES, READ_AHEAD_BLOCKS } from './limits.ts';

const FILE = randomBytes(PART_BYTES + 3 * BLOCK_BYTES + 12_345);

/** Parts as they lie in the bucket. */
function cacheOf(bytesMax: number) {
  const asked: string[] = [];
  const cache = new BlockCache(async (file, part, offset, length) => {
    asked.push(`${file}:${part}:${offset}`);
    const bytes = FILE.subarray(part * PART_BYTES, (part + 1) * PART_BYTES);
    return offset + length > bytes.length ? null : Buffer.from(bytes.subarray(offset, offset + length));
  }, bytesMax);
  return { cache, asked };
}

test('whatever is read, in whatever order, equals the file, and memory stays within its bound', async () => {
  await fc.assert(
    fc.asyncProperty(
      fc.array(fc.tuple(fc.nat(FILE.length), fc.nat(3 * BLOCK_BYTES)), { minLength: 1, maxLength: 8 }),
      async (reads) => {
        const { cache } = cacheOf(4 * BLOCK_BYTES);
        await Promise.all(
          reads.map(async ([position, size]) => {
            const target = Buffer.alloc(Math.min(size, FILE.length - position));
            expect(await cache.read(1, FILE.length, target, position)).toBe(true);
            expect(target.equals(FILE.subarray(position, position + target.length))).toBe(true);
          }),
        );
        expect(cache.bytes).toBeLessThanOrEqual(4 * BLOCK_BYTES);
      },
    ),
    { numRuns: 30 },
  );
});

test('what ends before is told, not invented', async () => {
  const { cache } = cacheOf(4 * BLOCK_BYTES);
  expect(await cache.read(1, FILE.length, Buffer.alloc(10), FILE.length - 9)).toBe(false);
});

test('a reader who goes on finds the next blocks asked for, and one who jumps about asks for no more than it reads', async () => {
  const { cache, asked } = cacheOf(64 * BLOCK_BYTES);
  await cache.read(1, FILE.length, Buffer.alloc(100), 0);
  expect(asked).toHaveLength(1);
  await cache.read(1, FILE.length, Buffer.alloc(100), BLOCK_BYTES);
  expect(asked).toHaveLength(2 + READ_AHEAD_BLOCKS);
  const jumps = cacheOf(64 * BLOCK_BYTES);
  for (const block of [7, 2, 5, 0]) await jumps.cache.read(1, FILE.length, Buffer.alloc(100), block * BLOCK_BYTES);
  expect(jumps.asked).toHaveLength(4);
});

test('a block that could not be fetched is asked for again', async () => {
  let failing = true;
  const cache = new BlockCache(async () => {
    if (failing) throw new Error('away');
    return Buffer.alloc(100, 7);
  }, BLOCK_BYTES);
  await expect(cache.read(1, 100, Buffer.alloc(10), 0)).rejects.toThrow('away');
  failing = false;
  const target = Buffer.alloc(10);
  expect(await cache.read(1, 100, target, 0)).toBe(true);
  expect(target).toEqual(Buffer.alloc(10, 7));
});
