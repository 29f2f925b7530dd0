import { randomBytes } from 'node:crypto';
import { expect, test } from 'vitest';
import { IF_ABSENT, listAll, type ObjectStore } from '../src/object-store/object-store.ts';

/** What every ObjectStore does. `store` gives one on an empty bucket. */
export function objectStoreContract(store: () => ObjectStore): void {
  const text = (bytes: Uint8Array | undefined) => Buffer.from(bytes ?? []).toString();
  const bytes = (value: string) => [Buffer.from(value)];

  test('what was put is read back whole, by range, and by its size', async () => {
    const s3 = store();
    const body = randomBytes(300_000);
    await s3.put('dir/whole', [body.subarray(0, 100_000), body.subarray(100_000)]);
    expect((await s3.get('dir/whole'))?.bytes.equals(body)).toBe(true);
    expect((await s3.getRange('dir/whole', 99_990, 20))?.equals(body.subarray(99_990, 100_010))).toBe(true);
    expect((await s3.getRange('dir/whole', 299_999, 1))?.equals(body.subarray(299_999))).toBe(true);
    expect(await s3.head('dir/whole')).toEqual({ key: 'dir/whole', bytes: 300_000 });
  });

  test('an empty object is an object', async () => {
    const s3 = store();
    expect((await s3.put('empty', [])).kind).toBe('stored');
    expect((await s3.get('empty'))?.bytes.length).toBe(0);
    expect(await s3.head('empty')).toEqual({ key: 'empty', bytes: 0 });
    expect(await s3.getRange('empty', 0, 1)).toBeNull();
  });

  test('what is not there is null, and so is a range that is not wholly there', async () => {
    const s3 = store();
    expect(await s3.get('nothing')).toBeNull();
    expect(await s3.getRange('nothing', 0, 1)).toBeNull();
    expect(await s3.head('nothing')).toBeNull();
    await s3.put('short', bytes('0123456789'));
    expect(await s3.getRange('short', 5, 6)).toBeNull();
    expect(await s3.getRange('short', 10, 1)).toBeNull();
    expect(text((await s3.getRange('short', 5, 5))!)).toBe('56789');
  });

  test('a later put without a condition replaces', async () => {
    const s3 = store();
    const first = await s3.put('key', bytes('one'));
    const second = await s3.put('key', bytes('two'));
    expect(text((await s3.get('key'))?.bytes)).toBe('two');
    expect(first).not.toEqual(second);
    expect(second).toEqual({ kind: 'stored', etag: (await s3.get('key'))?.etag });
  });

  test('put if absent stores once', async () => {
    const s3 = store();
    expect((await s3.put('once', bytes('one'), IF_ABSENT)).kind).toBe('stored');
    expect((await s3.put('once', bytes('two'), IF_ABSENT)).kind).toBe('refused');
    expect(text((await s3.get('once'))?.bytes)).toBe('one');
    await s3.delete('once');
    expect((await s3.put('once', bytes('three'), IF_ABSENT)).kind).toBe('stored');
  });

  test('put if it matches replaces exactly that version', async () => {
    const s3 = store();
    const first = await s3.put('versioned', bytes('one'));
    const etag = first.kind === 'stored' ? first.etag : '';
    expect((await s3.put('versioned', bytes('two'), { kind: 'matches', etag })).kind).toBe('stored');
    expect((await s3.put('versioned', bytes('three'), { kind: 'matches', etag })).kind).toBe('refused');
    expect((await s3.put('absent', bytes('four'), { kind: 'matches', etag })).kind).toBe('refused');
    expect(text((await s3.get('versioned'))?.bytes)).toBe('two');
    expect(await s3.head('absent')).toBeNull();
  });

  test('of many who put at once under the same condition one wins', async () => {
    const s3 = store();
    for (let round = 0; round < 10; round++) {
      const absent = await Promise.all(
        Array.from({ length: 12 }, (_, i) => s3.put(`race/${round}`, bytes(`${i}`), IF_ABSENT)),
      );
      const winner = absent.findIndex(({ kind }) => kind === 'stored');
      expect(absent.filter(({ kind }) => kind === 'stored').length).toBe(1);
      const held = await s3.get(`race/${round}`);
      expect(text(held?.bytes)).toBe(`${winner}`);
      const matches = await Promise.all(
        Array.from({ length: 12 }, (_, i) =>
          s3.put(`race/${round}`, bytes(`next ${i}`), { kind: 'matches', etag: held!.etag }),
        ),
      );
      expect(matches.filter(({ kind }) => kind === 'stored').length).toBe(1);
    }
  });

  test('lists are in order, by prefix, exclusive of their start, and whole over all pages', async () => {
    const s3 = store();
    const names = Array.from({ length: 1205 }, (_, i) => `list/${String(i).padStart(20, '0')}`);
    for (let i = 0; i < names.length; i += 25) {
      await Promise.all(names.slice(i, i + 25).map((name) => s3.put(name, bytes('x'))));
    }
    await s3.put('lisp', bytes('other'));
    await s3.put('lists', bytes('other'));
    const all = await listAll(s3, 'list/');
    expect(all.map(({ key }) => key)).toEqual(names);
    expect(all.every(({ bytes: size }) => size === 1)).toBe(true);
    expect((await listAll(s3, 'list/', names[1200])).map(({ key }) => key)).toEqual(names.slice(1201));
    expect(await s3.list('list/', names[1204])).toEqual({ objects: [], hasMore: false });
    expect(await s3.list('nothing/')).toEqual({ objects: [], hasMore: false });
  });

  test('deleting is idempotent and seen at once', async () => {
    const s3 = store();
    await s3.put('gone/1', bytes('x'));
    await s3.delete('gone/1');
    await s3.delete('gone/1');
    expect(await s3.get('gone/1')).toBeNull();
    expect((await s3.list('gone/')).objects).toEqual([]);
  });

  test('a closed one refuses', async () => {
    const s3 = store();
    s3.close();
    await expect(s3.get('key')).rejects.toMatchObject({ code: 'storage_closed' });
  });
}
