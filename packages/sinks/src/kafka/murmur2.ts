/**
 * The partition of a key as Kafka's Java client chooses it, so that Java, Streams and Connect find a key where we put it
 * (and librdkafka with `partitioner=murmur2_random`). The hash is MurmurHash2 of 32 bits with Kafka's seed.
 * Source: org.apache.kafka.common.utils.Utils.murmur2 and toPositive.
 *
 * HOT PATH
 */

const SEED = 0x9747b28c;
const M = 0x5bd1e995;

/** Signed, as in Java. */
export function murmur2(key: Uint8Array): number {
  const length = key.length;
  const whole = length & ~3;
  let hash = SEED ^ length;
  for (let at = 0; at < whole; at += 4) {
    let word = key[at]! | (key[at + 1]! << 8) | (key[at + 2]! << 16) | (key[at + 3]! << 24);
    word = Math.imul(word, M);
    word ^= word >>> 24;
    hash = Math.imul(hash, M) ^ Math.imul(word, M);
  }
  const rest = length - whole;
  if (rest > 0) {
    if (rest === 3) hash ^= key[whole + 2]! << 16;
    if (rest >= 2) hash ^= key[whole + 1]! << 8;
    hash = Math.imul(hash ^ key[whole]!, M);
  }
  hash = Math.imul(hash ^ (hash >>> 13), M);
  return (hash ^ (hash >>> 15)) | 0;
}

export function partitionOf(key: Uint8Array, partitions: number): number {
  // Not Math.abs: the smallest number has no positive counterpart, and all others would land elsewhere than in Java.
  return (murmur2(key) & 0x7fff_ffff) % partitions;
}
