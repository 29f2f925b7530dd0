/** A size as Postgres shows it in a setting: `64MB`, `-1`. */

const UNITS: Readonly<Record<string, number>> = { B: 1, kB: 2 ** 10, MB: 2 ** 20, GB: 2 ** 30, TB: 2 ** 40 };

/** null: without bound, or nothing that is a size. */
export function settingBytes(text: string | null): number | null {
  const parts = /^(\d+)(B|kB|MB|GB|TB)$/.exec(text ?? '');
  return parts === null ? null : Number(parts[1]) * UNITS[parts[2]!]!;
}
