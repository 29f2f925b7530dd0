/** Locales for a server of a test's own: few machines have any but C. */
import { spawnSync } from 'node:child_process';
import { chmodSync, existsSync, mkdtempSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';

export interface TestLocale {
  /** For the server: `startOwnPostgres(settings, undefined, environment)`. */
  readonly environment: Readonly<Record<string, string>>;
  remove(): void;
}

/** The locales, each as `<name>.UTF-8`, or why this machine cannot make them: for the name of the skipped test. */
export function compileLocale(names: readonly string[]): TestLocale | { readonly unavailable: string } {
  const sources = '/usr/share/i18n/locales';
  const missing = names.find((name) => !existsSync(join(sources, name)));
  if (missing !== undefined) return { unavailable: `no source of locale ${missing} in ${sources} (package locales)` };
  const dir = mkdtempSync(join(tmpdir(), `millrace-test-${process.pid}-locale-`));
  // The server may run as another user.
  chmodSync(dir, 0o755);
  for (const name of names) {
    // Its warnings about the source make it end with 1; the locale is there all the same, or it is not.
    const made = spawnSync('localedef', ['-i', name, '-f', 'UTF-8', '--no-archive', '-c', join(dir, `${name}.UTF-8`)]);
    if (existsSync(join(dir, `${name}.UTF-8`, 'LC_MONETARY'))) continue;
    rmSync(dir, { recursive: true, force: true });
    return { unavailable: `localedef: ${made.error?.message ?? String(made.stderr).trim()}` };
  }
  return { environment: { LOCPATH: dir }, remove: () => rmSync(dir, { recursive: true, force: true }) };
}
