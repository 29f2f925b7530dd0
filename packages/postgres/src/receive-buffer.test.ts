import fc from 'fast-check';
import { expect, test } from 'vitest';
import { ReceiveBuffer } from './receive-buffer.ts';

const BASE_BYTES = 70_000;

/** Collects whole messages, as a session does: a code, a length that counts itself, a payload. */
function collector(copying: boolean) {
  const messages: Buffer[] = [];
  const buffer = new ReceiveBuffer(BASE_BYTES, (bytes, start, end) => {
    let at = start;
    while (end - at >= 5 && at + 1 + bytes.readUInt32BE(at + 1) <= end) {
      const next = at + 1 + bytes.readUInt32BE(at + 1);
      messages.push(Buffer.from(bytes.subarray(at, next)));
      at = next;
    }
    return at;
  });
  const feed = (stream: Buffer, sizes: readonly number[]) => {
    let at = 0;
    for (let i = 0; at < stream.length; i++) {
      const wanted = sizes.length === 0 ? 1 : sizes[i % sizes.length]!;
      if (copying) {
        buffer.receivedCopy(stream.subarray(at, at + wanted));
        at += Math.min(wanted, stream.length - at);
      } else {
        // A socket fills at most what is free.
        const free = buffer.free();
        if (free.length === 0) throw new Error('there is always room for a read');
        const size = stream.copy(free, 0, at, Math.min(at + wanted, stream.length));
        buffer.received(size);
        at += size;
      }
    }
  };
  return { messages, buffer, feed };
}

function frame(payload: number, fill: number): Buffer {
  const bytes = Buffer.alloc(5 + payload, fill);
  bytes[0] = 0x64;
  bytes.writeUInt32BE(4 + payload, 1);
  return bytes;
}

const frames = fc
  .array(fc.tuple(fc.oneof(fc.nat(40), fc.nat(3 * BASE_BYTES)), fc.nat(255)), { minLength: 1, maxLength: 12 })
  .map((all) => all.map(([size, fill]) => frame(size, fill)));

test('messages come out whole and in order, however the reads cut them and whatever their size', () => {
  const sizes = fc.array(fc.oneof(fc.integer({ min: 1, max: 9 }), fc.integer({ min: 1, max: 2 * BASE_BYTES })), {
    minLength: 1,
    maxLength: 6,
  });
  fc.assert(
    fc.property(frames, sizes, fc.boolean(), (all, chunks, copying) => {
      // Single bytes through megabytes take long; one big read among them keeps it in bounds.
      const { messages, feed } = collector(copying);
      feed(Buffer.concat(all), [...chunks, BASE_BYTES]);
      expect(messages.length).toBe(all.length);
      expect(messages.every((message, i) => message.equals(all[i]!))).toBe(true);
    }),
    { numRuns: 300 },
  );
});

test('messages come out whole when every read is one byte', () => {
  for (const copying of [false, true]) {
    const all = [frame(0, 1), frame(1, 2), frame(90_000, 3), frame(7, 4)];
    const { messages, feed } = collector(copying);
    feed(Buffer.concat(all), [1]);
    expect(messages).toEqual(all);
  }
});

test('the memory of a large message is given back after it', () => {
  const { buffer, feed } = collector(false);
  feed(frame(50 * BASE_BYTES, 1), [BASE_BYTES]);
  expect(buffer.free().length).toBe(BASE_BYTES);
});

test('a message that says it is larger than 1 GiB is refused before memory is taken for it', () => {
  const { feed } = collector(false);
  expect(() => feed(Buffer.from([0x64, 0x7f, 0xff, 0xff, 0xff, 0]), [6])).toThrow(
    expect.objectContaining({ code: 'pg_protocol' }),
  );
});

test('what a consumer left is offered again, and the read that is under way still fits behind it', () => {
  const seen: Buffer[] = [];
  let held = true;
  const buffer = new ReceiveBuffer(BASE_BYTES, (bytes, start, end) => {
    if (held) return start;
    seen.push(Buffer.from(bytes.subarray(start, end)));
    return end;
  });
  const [first, second] = [frame(5, 1), frame(6, 2)];
  buffer.received(first.copy(buffer.free()));
  const underWay = buffer.free();
  held = false;
  buffer.redeliver();
  buffer.received(second.copy(underWay));
  expect(seen).toEqual([first, second]);
});
