/**
 * Which addresses a sink may connect to (SSRF). Names are resolved here and the addresses that come back are what the
 * connection uses: a name that means another address a moment later (DNS rebinding) gains nothing.
 */
import type { LookupAddress } from 'node:dns';
import { lookup } from 'node:dns/promises';
import { isIP, type LookupFunction } from 'node:net';
import { MillraceError } from '@millrace/core/error';
import ipaddr from 'ipaddr.js';
import type { NetworkPolicy } from '../sink-kind.ts';

export type ResolveHost = (host: string) => Promise<readonly LookupAddress[]>;

export interface NetworkGuardOptions {
  readonly policy: NetworkPolicy;
  /** Default: as the machine resolves names. */
  readonly resolve?: ResolveHost | undefined;
}

export interface NetworkGuard {
  /** null, or why a host that is an address itself may not be connected to. A name passes: `lookup` decides. */
  refusal(host: string): MillraceError | null;
  /** For net.connect: only addresses that are allowed; fails when there are none. */
  readonly lookup: LookupFunction;
}

/** A machine of a private network, or this one. With allowPrivate they may be connected to. */
const PRIVATE_RANGES: ReadonlySet<string> = new Set(['loopback', 'private', 'carrierGradeNat', 'uniqueLocal']);

/**
 * Credentials of the machine are to be had there for the asking; no name says so. allowPrivate does not open them, and
 * neither do link-local addresses, of which the others of the kind are.
 */
const METADATA_ADDRESSES: ReadonlySet<string> = new Set(['100.100.100.200', '168.63.129.16', 'fd00:ec2::254']);

type Address = ipaddr.IPv4 | ipaddr.IPv6;
type Rule = (host: string | null, address: Address) => boolean;

export function networkGuard({ policy, resolve = resolveHost }: NetworkGuardOptions): NetworkGuard {
  const rules = policy.allow.map(ruleOf);
  const allowed = (host: string | null, text: string): boolean => {
    const address = plainAddress(text);
    return rules.some((rule) => rule(host, address)) || isOpen(address, policy.allowPrivate);
  };
  const refused = (host: string, addresses: readonly string[]): MillraceError => {
    const named = addresses.length === 0 || addresses[0] === host ? '' : `, which is ${addresses.join(', ')}`;
    const isPrivate = addresses.some((text) => isOpen(plainAddress(text), true));
    const all = isPrivate ? `, or all private addresses with --webhooks-allow-private` : '';
    return new MillraceError('sink_address_refused', {
      detail: `It is ${host}${named}.`,
      hint: `Where it is meant, start the process with --sinks-allow ${host}${all}.`,
    });
  };

  async function find(host: string): Promise<readonly LookupAddress[]> {
    const found = await resolve(host);
    const open = found.filter(({ address }) => allowed(host, address));
    if (open.length === 0) {
      throw refused(
        host,
        found.map(({ address }) => address),
      );
    }
    return open;
  }

  return {
    refusal(host) {
      const bare = withoutBrackets(host);
      return isIP(bare) === 0 || allowed(null, bare) ? null : refused(bare, [bare]);
    },
    lookup(host, options, callback) {
      find(host).then(
        (addresses) => {
          if (options.all === true) callback(null, [...addresses]);
          else callback(null, addresses[0]!.address, addresses[0]!.family);
        },
        (error: unknown) => callback(error as NodeJS.ErrnoException, ''),
      );
    },
  };
}

async function resolveHost(host: string): Promise<readonly LookupAddress[]> {
  return await lookup(host, { all: true });
}

function withoutBrackets(host: string): string {
  return host.startsWith('[') && host.endsWith(']') ? host.slice(1, -1) : host;
}

/** `hooks.internal`, `*.internal`, an address, or a CIDR block. */
function ruleOf(text: string): Rule {
  const entry = withoutBrackets(text.trim().toLowerCase());
  if (isIP(entry) !== 0) {
    const wanted = plainAddress(entry).toString();
    return (_host, address) => address.toString() === wanted;
  }
  if (ipaddr.isValidCIDR(entry)) {
    const block = ipaddr.parseCIDR(entry);
    return (_host, address) => address.kind() === block[0].kind() && address.match(block);
  }
  if (entry.startsWith('*.')) return (host) => host?.toLowerCase().endsWith(entry.slice(1)) === true;
  return (host) => host?.toLowerCase() === entry;
}

function isOpen(address: Address, allowPrivate: boolean): boolean {
  if (METADATA_ADDRESSES.has(address.toString())) return false;
  const range = address.range();
  return (range === 'unicast' && isGlobal(address)) || (allowPrivate && PRIVATE_RANGES.has(range));
}

/** Of IPv6 only 2000::/3 was ever given out; what is in no list of ranges beyond it leads elsewhere, where it leads at all. */
function isGlobal(address: Address): boolean {
  return !(address instanceof ipaddr.IPv6) || (address.parts[0]! & 0xe000) === 0x2000;
}

/** The IPv4 address that an IPv6 one leads to, where it is one of those. */
function plainAddress(text: string): Address {
  const zone = text.indexOf('%');
  const address = ipaddr.parse(zone === -1 ? text : text.slice(0, zone));
  if (!(address instanceof ipaddr.IPv6)) return address;
  const bytes = address.toByteArray();
  switch (address.range() as string) {
    case 'ipv4Mapped':
    case 'rfc6145':
      return ipv4Of(bytes, 12);
    case 'rfc6052':
      // Of 64:ff9b:1::/48 nobody knows where in it the IPv4 address is: it stays what it is, and refused.
      return bytes[4] === 0 && bytes[5] === 0 ? ipv4Of(bytes, 12) : address;
    case '6to4':
      return ipv4Of(bytes, 2);
    case 'unicast':
      if (isIsatap(bytes)) return ipv4Of(bytes, 12);
      // ::a.b.c.d, which is out of use and in no list of ranges.
      return bytes.slice(0, 12).every((byte) => byte === 0) && bytes[12] !== 0 ? ipv4Of(bytes, 12) : address;
    default:
      return address;
  }
}

/** RFC 5214, behind any prefix: 0:5efe:a.b.c.d, with a bit for an IPv4 address that is said to be global. */
function isIsatap(bytes: readonly number[]): boolean {
  return (bytes[8]! & 0xfd) === 0 && bytes[9] === 0 && bytes[10] === 0x5e && bytes[11] === 0xfe;
}

function ipv4Of(bytes: readonly number[], at: number): ipaddr.IPv4 {
  return new ipaddr.IPv4(bytes.slice(at, at + 4));
}
