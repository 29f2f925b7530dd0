import fc from 'fast-check';
import { describe, expect, it } from 'vitest';
import { FRAME_BYTES_MAX } from '../limits.ts';
import { S2Error } from '../s2-error.ts';
import {
  encodeFrame,
  encodeTerminalFrame,
  FLAG_RECONNECT,
  FLAG_TERMINAL,
  FrameBufferPool,
  FrameDecoder,
} from './s2s-frame.ts';

interface Frame {
  flag: number;
  payload: string;
}

/** Feeds chunks and returns what came out, and the error that ended it. */
function decode(chunks: readonly Buffer[]): { frames: Frame[]; error: unknown; partial: boolean } {
  const decoder = new FrameDecoder(new FrameBufferPool());
  const frames: Frame[] = [];
  try {
    for (const chunk of chunks) {
      decoder.push(chunk);
      while (decoder.next()) frames.push({ flag: decoder.flag, payload: decoder.payload.toString('hex') });
    }
  } catch (error) {
    return { frames, error, partial: decoder.partial };
  }
  return { frames, error: null, partial: decoder.partial };
}

function split(bytes: Buffer, cuts: readonly number[]): Buffer[] {
  const at = [0, ...[...cuts].map((cut) => cut % (bytes.length + 1)).sort((a, b) => a - b), bytes.length];
  return at.slice(1).map((end, i) => bytes.subarray(at[i], end));
}

describe('S2S frames', () => {
  it('has the layout of the specification', () => {
    expect(encodeFrame(0, Buffer.from('abc'))).toEqual(Buffer.from([0, 0, 4, 0, 0x61, 0x62, 0x63]));
    expect(encodeFrame(FLAG_RECONNECT, Buffer.alloc(0))).toEqual(Buffer.from([0, 0, 1, 0x10]));
    expect(encodeTerminalFrame(416, '{}')).toEqual(Buffer.from([0, 0, 5, 0x80, 0x01, 0xa0, 0x7b, 0x7d]));
  });

  it('come out the same wherever the bytes are split in two', () => {
    const frames = [Buffer.alloc(0), Buffer.from('a'), Buffer.alloc(300, 7)].map((payload) => encodeFrame(0, payload));
    const bytes = Buffer.concat(frames);
    const whole = decode([bytes]);
    expect(whole.frames.map(({ payload }) => payload.length / 2)).toEqual([0, 1, 300]);
    for (let at = 0; at <= bytes.length; at++) {
      expect(decode([bytes.subarray(0, at), bytes.subarray(at)])).toEqual(whole);
    }
  });

  it('come out the same however the bytes are split', () => {
    const payloads = fc.array(fc.uint8Array({ maxLength: 200 }), { maxLength: 8 });
    fc.assert(
      fc.property(payloads, fc.array(fc.nat(2000), { maxLength: 40 }), (payloads, cuts) => {
        const bytes = Buffer.concat(
          payloads.map((payload, i) => encodeFrame(i % 2 === 0 ? 0 : FLAG_RECONNECT, payload)),
        );
        const { frames, error, partial } = decode(split(bytes, cuts));
        expect(error).toBeNull();
        expect(partial).toBe(false);
        expect(frames.map(({ payload }) => payload)).toEqual(payloads.map((p) => Buffer.from(p).toString('hex')));
      }),
    );
  });

  it('of the largest size are put together from small chunks', () => {
    const payload = Buffer.alloc(FRAME_BYTES_MAX - 1, 1);
    const bytes = encodeFrame(0, payload);
    const chunks: Buffer[] = [];
    for (let at = 0; at < bytes.length; at += 16_384) chunks.push(bytes.subarray(at, at + 16_384));
    const { frames, error } = decode(chunks);
    expect(error).toBeNull();
    expect(frames[0]!.payload.length).toBe(2 * payload.length);
  });

  it('ignore reserved flag bits', () => {
    expect(decode([Buffer.from([0, 0, 1, 0x0f])]).frames).toEqual([{ flag: 0x0f, payload: '' }]);
    expect(decode([Buffer.from([0, 0, 1, FLAG_TERMINAL])]).frames[0]!.flag).toBe(FLAG_TERMINAL);
  });

  it.each([
    ['a length of zero', [0, 0, 0, 0]],
    ['a length above 2 MiB', [0x20, 0, 1, 0]],
    ['the unknown compression', [0, 0, 1, 0x60]],
  ])('are refused as bad_frame for %s', (_what, bytes) => {
    const { error } = decode([Buffer.from(bytes)]);
    expect(error).toBeInstanceOf(S2Error);
    expect((error as S2Error).code).toBe('bad_frame');
  });

  it('cut off in the middle are known to be incomplete', () => {
    expect(decode([Buffer.from([0, 0])]).partial).toBe(true);
    expect(decode([Buffer.from([0, 0, 5, 0, 1])]).partial).toBe(true);
    expect(decode([]).partial).toBe(false);
  });

  it('of garbage end in frames or in bad_frame, never in another error', () => {
    fc.assert(
      fc.property(fc.uint8Array({ maxLength: 400 }), fc.array(fc.nat(400), { maxLength: 5 }), (bytes, cuts) => {
        const { error } = decode(split(Buffer.from(bytes), cuts));
        expect(error === null || (error instanceof S2Error && error.code === 'bad_frame')).toBe(true);
      }),
    );
  });
});
