import type { LookupAddress } from 'node:dns';
import fc from 'fast-check';
import { describe, expect, test } from 'vitest';
import { type NetworkGuard, networkGuard } from './network-guard.ts';

function guard(allow: readonly string[] = [], allowPrivate = false, names: Record<string, readonly string[]> = {}) {
  return networkGuard({
    policy: { allow, allowPrivate },
    resolve: async (host) =>
      (names[host] ?? []).map((address): LookupAddress => ({ address, family: address.includes(':') ? 6 : 4 })),
  });
}

function found(by: NetworkGuard, host: string): Promise<readonly string[]> {
  return new Promise((resolve, reject) => {
    by.lookup(host, { all: true }, (error, addresses) => {
      if (error) reject(error);
      else resolve((addresses as LookupAddress[]).map(({ address }) => address));
    });
  });
}

const LOCAL = ['127.0.0.1', '127.255.255.254', '10.0.0.1', '172.16.0.1', '172.31.255.255', '192.168.1.1', '100.64.0.1'];
const LOCAL_6 = [
  '::1',
  'fd00::1',
  'fc00::1',
  '::ffff:10.0.0.1',
  '::ffff:7f00:1',
  '64:ff9b::7f00:1',
  '2002:7f00:1::',
  '::5efe:7f00:1',
  '2606:4700::5efe:7f00:1',
  '2606:4700::200:5efe:a00:1',
];
/** Those that allowPrivate does not open either. */
const NEVER = ['169.254.169.254', '169.254.1.1', '0.0.0.0', '0.1.2.3', '255.255.255.255', '224.0.0.1', '240.0.0.1'];
const NEVER_6 = [
  '::',
  'fe80::1',
  'fe80::1%eth0',
  'ff02::1',
  'fec0::1',
  '::ffff:169.254.169.254',
  '64:ff9b:1::1',
  '2001::1',
  '::2:7f00:1',
  '100:0:0:1::1',
  '4000::1',
  'fe80::5efe:101:101',
  '2606:4700::5efe:a9fe:a9fe',
];
const METADATA = ['100.100.100.200', '168.63.129.16', 'fd00:ec2::254'];
const PUBLIC = [
  '93.184.215.14',
  '1.1.1.1',
  '172.32.0.1',
  '100.128.0.1',
  '2606:4700::1111',
  '::ffff:1.1.1.1',
  '3000::1',
  '2606:4700::5efe:101:101',
];

describe('an address that may not be connected to', () => {
  test.each([...LOCAL, ...LOCAL_6])('%s is private, and opened by allowPrivate', (address) => {
    expect(guard().refusal(address)?.code).toBe('sink_address_refused');
    expect(guard([], true).refusal(address)).toBeNull();
  });

  test.each([...NEVER, ...NEVER_6, ...METADATA])('%s is opened by its own entry only', (address) => {
    expect(guard().refusal(address)?.code).toBe('sink_address_refused');
    expect(guard([], true).refusal(address)?.code).toBe('sink_address_refused');
    expect(guard([address.replace(/%.*/, '')]).refusal(address)).toBeNull();
  });

  test.each(PUBLIC)('%s is public, and open', (address) => {
    expect(guard().refusal(address)).toBeNull();
  });

  test('stays what it is where the network around the IPv4 address is no public one', () => {
    expect(guard().refusal('fd00::5efe:101:101')?.code).toBe('sink_address_refused');
  });

  test('is refused in brackets, too', () => {
    expect(guard().refusal('[::1]')?.code).toBe('sink_address_refused');
    expect(guard(['[::1]']).refusal('[::1]')).toBeNull();
  });

  test('is refused with the flags that open it', () => {
    const refusal = guard().refusal('10.1.2.3');
    expect(refusal?.hint).toContain('--sinks-allow 10.1.2.3');
    expect(refusal?.hint).toContain('--webhooks-allow-private');
    expect(guard().refusal('169.254.169.254')?.hint).not.toContain('--webhooks-allow-private');
  });

  test('is none that embeds a private IPv4 address, whichever it is', () => {
    const octet = fc.integer({ min: 0, max: 255 });
    fc.assert(
      fc.property(octet, octet, octet, (a, b, c) => {
        const inside = `10.${a}.${b}.${c}`;
        const hex = `a${a.toString(16).padStart(2, '0')}:${((b << 8) | c).toString(16)}`;
        for (const text of [
          inside,
          `::ffff:${inside}`,
          `::ffff:${hex}`,
          `64:ff9b::${hex}`,
          `2002:${hex}::1`,
          `::${hex}`,
          `::5efe:${hex}`,
          `2606:4700::5efe:${hex}`,
          `2606:4700::200:5efe:${hex}`,
        ]) {
          expect(guard().refusal(text)?.code, text).toBe('sink_address_refused');
        }
      }),
    );
  });
});

describe('the allow list', () => {
  test('takes CIDR blocks', () => {
    const by = guard(['10.1.0.0/16', 'fd12::/16']);
    expect(by.refusal('10.1.200.3')).toBeNull();
    expect(by.refusal('::ffff:10.1.0.1')).toBeNull();
    expect(by.refusal('10.2.0.1')).not.toBeNull();
    expect(by.refusal('fd12::5')).toBeNull();
    expect(by.refusal('fd13::5')).not.toBeNull();
  });

  test('takes names, and all below a name; an address is not opened by its name being there', async () => {
    const by = guard(['Hooks.Internal', '*.svc.local'], false, {
      'hooks.internal': ['10.0.0.1'],
      'a.svc.local': ['10.0.0.2'],
      'svc.local': ['10.0.0.3'],
      'other.internal': ['10.0.0.1'],
    });
    expect(await found(by, 'hooks.internal')).toEqual(['10.0.0.1']);
    expect(await found(by, 'a.svc.local')).toEqual(['10.0.0.2']);
    await expect(found(by, 'svc.local')).rejects.toMatchObject({ code: 'sink_address_refused' });
    await expect(found(by, 'other.internal')).rejects.toMatchObject({ code: 'sink_address_refused' });
    expect(by.refusal('10.0.0.1')).not.toBeNull();
  });
});

describe('a name', () => {
  test('is left to the lookup, which gives the addresses that are open and no other', async () => {
    const by = guard([], false, { mixed: ['10.0.0.1', '1.1.1.1', '::1', '2606:4700::1111'] });
    expect(by.refusal('mixed')).toBeNull();
    expect(await found(by, 'mixed')).toEqual(['1.1.1.1', '2606:4700::1111']);
  });

  test('that means only private addresses is refused, and the error tells which', async () => {
    const error = found(guard([], false, { inside: ['10.0.0.1'] }), 'inside');
    await expect(error).rejects.toMatchObject({
      code: 'sink_address_refused',
      detail: 'It is inside, which is 10.0.0.1.',
      hint: expect.stringContaining('--sinks-allow inside'),
    });
  });

  test('gives one address to who asks for one', async () => {
    const by = guard([], true, { one: ['10.0.0.9'] });
    const answer = await new Promise((resolve) => {
      by.lookup('one', { all: false }, (error, address, family) => resolve([error, address, family]));
    });
    expect(answer).toEqual([null, '10.0.0.9', 4]);
  });
});
