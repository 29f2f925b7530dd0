import { expect, test } from 'vitest';
import { input } from '../../test/store-rig.ts';
import { AES_GCM_SEQ_NUM_MAX } from './record-cipher.ts';
import { refuseAppend } from './sealed-append.ts';

const batch = (count: number) => ({ ...input(Array.from({ length: count }, () => 'x')), sealed: true });

test('a stream with aes-256-gcm takes its last sequence number and none beyond, batches as a whole', () => {
  expect(AES_GCM_SEQ_NUM_MAX).toBe(4_294_967_295);
  expect(refuseAppend('aes-256-gcm', batch(1), 4_294_967_295)).toBeNull();
  expect(refuseAppend('aes-256-gcm', batch(3), 4_294_967_293)).toBeNull();
  expect(refuseAppend('aes-256-gcm', batch(1), 4_294_967_296)).toMatchObject({ code: 'invalid', status: 422 });
  expect(refuseAppend('aes-256-gcm', batch(3), 4_294_967_294)).toMatchObject({ code: 'invalid', status: 422 });
  expect(refuseAppend('aegis-256', batch(1), 4_294_967_296)).toBeNull();
});

test('a record in the clear is refused', () => {
  expect(refuseAppend('aes-256-gcm', { ...batch(1), sealed: undefined }, 0)).toMatchObject({ code: 'bad_header' });
});
