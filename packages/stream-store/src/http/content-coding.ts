import { promisify } from 'node:util';
import zlib from 'node:zlib';
import { S2Error } from '../s2-error.ts';
import type { Coding } from './negotiation.ts';
import { COMPRESSION_GZIP, COMPRESSION_NONE, COMPRESSION_ZSTD } from './s2s-frame.ts';

/** Compression of bodies and frames. Decompression is always bounded: a few bytes can claim gigabytes. */

const compressors = {
  zstd: promisify(zlib.zstdCompress),
  br: promisify(zlib.brotliCompress),
  gzip: promisify(zlib.gzip),
  deflate: promisify(zlib.deflate),
} satisfies Record<Coding, unknown>;

const decompressors = {
  zstd: promisify(zlib.zstdDecompress),
  br: promisify(zlib.brotliDecompress),
  gzip: promisify(zlib.gunzip),
  deflate: promisify(zlib.inflate),
} satisfies Record<Coding, unknown>;

// Brotli's default (11) takes a second per megabyte: fit for files, not for answers.
const BROTLI = { params: { [zlib.constants.BROTLI_PARAM_QUALITY]: 4 } };

export function compress(coding: Coding, bytes: Uint8Array): Promise<Buffer> {
  return coding === 'br' ? compressors.br(bytes, BROTLI) : compressors[coding](bytes);
}

/** A request body; more than `bytesMax` is refused before it is made. */
export async function decodeBody(header: string, bytes: Buffer, bytesMax: number): Promise<Buffer> {
  const coding = header.trim().toLowerCase();
  if (coding === 'identity' || coding === '') return bytes;
  if (!isCoding(coding)) {
    throw new S2Error('bad_header', 'content-encoding has to be one of gzip, zstd, br, deflate.');
  }
  try {
    return await decompressors[coding](bytes, { maxOutputLength: bytesMax });
  } catch (cause) {
    if (isTooLarge(cause)) throw new S2Error('invalid', `The body is larger than ${bytesMax} bytes.`, { cause });
    throw new S2Error('bad_header', 'The body is not encoded as content-encoding says.', { cause });
  }
}

/** A frame's payload; `flag` is one of the compression flags. */
export async function decodePayload(compression: number, payload: Buffer, bytesMax: number): Promise<Buffer> {
  if (compression === COMPRESSION_NONE) return payload;
  try {
    return await decompressors[compression === COMPRESSION_ZSTD ? 'zstd' : 'gzip'](payload, {
      maxOutputLength: bytesMax,
    });
  } catch (cause) {
    throw new S2Error('bad_frame', 'A frame cannot be decompressed within the limit.', { cause });
  }
}

export function compressionFlag(coding: 'zstd' | 'gzip' | null): number {
  return coding === null ? COMPRESSION_NONE : coding === 'zstd' ? COMPRESSION_ZSTD : COMPRESSION_GZIP;
}

function isCoding(coding: string): coding is Coding {
  return Object.hasOwn(decompressors, coding);
}

function isTooLarge(cause: unknown): boolean {
  return cause instanceof RangeError && (cause as NodeJS.ErrnoException).code === 'ERR_BUFFER_TOO_LARGE';
}
