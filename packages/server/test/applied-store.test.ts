/** What is applied, on record: encrypted under keys that can be replaced, and refused by name when it cannot be read. */
import { mkdtempSync, readFileSync, rmSync, statSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { type ConfigSource, EMPTY_SOURCE } from '@millrace/api/applied/config-source';
import { APPLIED_KEY, appliedStore } from '@millrace/server/config/applied-store';
import { openSecretKeys } from '@millrace/server/config/secret-key';
import type { StateTable } from '@millrace/stream-store/store';
import fc from 'fast-check';
import { afterEach, beforeEach, expect, test } from 'vitest';

let dir: string;
beforeEach(() => {
  dir = mkdtempSync(join(tmpdir(), 'millrace-keys-'));
});
afterEach(() => rmSync(dir, { recursive: true, force: true }));

/** The table itself is tested with the store. */
function table(): StateTable & { bytes(): Buffer } {
  const values = new Map<string, Uint8Array>();
  return {
    get: (key) => values.get(key),
    list: () => values,
    put: async (key, value) => void values.set(key, value),
    delete: async (key) => void values.delete(key),
    bytes: () => Buffer.from(values.get(APPLIED_KEY)!),
  };
}

const SOURCE: ConfigSource = {
  blocks: { ...EMPTY_SOURCE.blocks, http_endpoints: [{ name: 'a', url: 'http://x', password: 'hunter2' }] },
  references: { PW: 'hunter3' },
};
const one = Buffer.alloc(32, 1).toString('base64');
const two = Buffer.alloc(32, 2).toString('hex');

test('what is saved is read back, and is nowhere to be seen', async () => {
  const state = table();
  const keys = await openSecretKeys(dir, undefined);
  await appliedStore(state, keys).save(SOURCE);
  expect(appliedStore(state, keys).load()).toEqual(SOURCE);
  expect(state.bytes().toString('latin1')).not.toMatch(/hunter|PW/);
  expect(appliedStore(table(), keys).load()).toBeNull();
});

test('the key in the data directory is made once, for its owner only', async () => {
  const state = table();
  await appliedStore(state, await openSecretKeys(dir, undefined)).save(SOURCE);
  const file = join(dir, 'secret.key');
  expect(statSync(file).mode & 0o777).toBe(0o600);
  const text = readFileSync(file, 'utf8');
  expect(appliedStore(state, await openSecretKeys(dir, undefined)).load()).toEqual(SOURCE);
  expect(readFileSync(file, 'utf8')).toBe(text);
});

test('a key of the environment takes its place, and another the place of that', async () => {
  const state = table();
  await appliedStore(state, await openSecretKeys(dir, undefined)).save(SOURCE);
  // What was saved under the key of the directory is still read; what is saved now needs it no more.
  const given = appliedStore(state, await openSecretKeys(dir, one));
  expect(given.load()).toEqual(SOURCE);
  await given.save(SOURCE);
  rmSync(join(dir, 'secret.key'));
  const both = appliedStore(state, await openSecretKeys(dir, `${two},${one}`));
  expect(both.load()).toEqual(SOURCE);
  await both.save(SOURCE);
  expect(appliedStore(state, await openSecretKeys(dir, two)).load()).toEqual(SOURCE);
  const gone = appliedStore(state, await openSecretKeys(dir, one));
  expect(() => gone.load()).toThrow(
    expect.objectContaining({
      code: 'config_applied_unreadable',
      hint: expect.stringContaining('MILLRACE_SECRET_KEY'),
    }),
  );
});

test('a key that is none is refused without showing it', async () => {
  for (const text of ['short', Buffer.alloc(31).toString('base64'), `${one},zzz`]) {
    await expect(openSecretKeys(dir, text)).rejects.toMatchObject({ code: 'secret_key_invalid' });
  }
  await expect(openSecretKeys(dir, 'short')).rejects.not.toMatchObject({ message: expect.stringContaining('short') });
  writeFileSync(join(dir, 'secret.key'), '');
  await expect(openSecretKeys(dir, undefined)).rejects.toMatchObject({ code: 'secret_key_invalid' });
});

test('a record of which any byte is another is refused', async () => {
  const state = table();
  const keys = await openSecretKeys(dir, one);
  await appliedStore(state, keys).save(SOURCE);
  const record = state.bytes();
  fc.assert(
    fc.property(fc.nat(record.length - 1), fc.integer({ min: 1, max: 255 }), (at, bits) => {
      const broken = Buffer.from(record);
      broken[at]! ^= bits;
      const other = { ...state, get: () => broken };
      expect(() => appliedStore(other, keys).load()).toThrow(
        expect.objectContaining({ code: 'config_applied_unreadable' }),
      );
    }),
    { numRuns: 200 },
  );
  for (const length of [0, 3, 39, record.length - 1]) {
    const cut = { ...state, get: () => record.subarray(0, length) };
    expect(() => appliedStore(cut, keys).load()).toThrow(
      expect.objectContaining({ code: 'config_applied_unreadable' }),
    );
  }
});
