import { mkdirSync, readFileSync, renameSync, rmSync, writeFileSync } from 'node:fs';
import { homedir } from 'node:os';
import { dirname, join } from 'node:path';
import { CommandFailure } from './failure.ts';

/** What `millrace config` keeps between calls: the least of a flag, an environment variable and this decides. */
export interface Settings {
  readonly access_token?: string;
  readonly endpoint?: string;
  readonly account_endpoint?: string;
  readonly basin_endpoint?: string;
  readonly compression?: string;
  readonly ssl_no_verify?: string;
}

export type SettingName = keyof Settings;

export interface SettingInfo {
  readonly text: string;
  /** Shown masked. */
  readonly secret?: boolean;
  readonly values?: readonly string[];
}

export const COMPRESSIONS = ['none', 'gzip', 'zstd'] as const;
export type Compression = (typeof COMPRESSIONS)[number];

export const SETTINGS: Readonly<Record<SettingName, SettingInfo>> = {
  access_token: { text: 'access token, as S2_ACCESS_TOKEN', secret: true },
  endpoint: { text: 'URL of the store, as MILLRACE_ENDPOINT' },
  account_endpoint: { text: 'URL for accounts and basins, as S2_ACCOUNT_ENDPOINT' },
  basin_endpoint: { text: 'URL for streams, as S2_BASIN_ENDPOINT' },
  compression: { text: 'of records under way, as S2_COMPRESSION', values: COMPRESSIONS },
  ssl_no_verify: { text: 'trust any certificate, as S2_SSL_NO_VERIFY', values: ['true', 'false'] },
};

type Environment = Readonly<Record<string, string | undefined>>;

/** `$XDG_CONFIG_HOME/millrace/config.json`, by default below `~/.config`. */
export function settingsFile(env: Environment): string {
  return join(env.XDG_CONFIG_HOME || join(env.HOME || homedir(), '.config'), 'millrace', 'config.json');
}

export function readSettings(env: Environment): Settings {
  const file = settingsFile(env);
  let text: string;
  try {
    text = readFileSync(file, 'utf8');
  } catch (error) {
    if (['ENOENT', 'ENOTDIR'].includes((error as NodeJS.ErrnoException).code ?? '')) return {};
    throw error;
  }
  const hint = 'Correct the file, or delete it and set the values again: millrace config set KEY VALUE';
  let value: unknown;
  try {
    value = JSON.parse(text);
  } catch (cause) {
    throw new CommandFailure('settings_invalid', `${file} is not JSON.`, hint, cause);
  }
  if (typeof value !== 'object' || value === null || Array.isArray(value)) {
    throw new CommandFailure('settings_invalid', `${file} does not hold one object.`, hint);
  }
  for (const [key, setting] of Object.entries(value)) {
    if (!isSettingName(key)) throw new CommandFailure('settings_invalid', `${file}: unknown key "${key}".`, hint);
    if (typeof setting !== 'string') throw new CommandFailure('settings_invalid', `${file}: ${key} is not text.`, hint);
  }
  return value as Settings;
}

/** Only its owner may read it: a token may be in it. */
export function writeSettings(env: Environment, settings: Settings): void {
  const file = settingsFile(env);
  mkdirSync(dirname(file), { recursive: true, mode: 0o700 });
  const temporary = `${file}.${process.pid}.tmp`;
  try {
    writeFileSync(temporary, `${JSON.stringify(settings, null, 2)}\n`, { mode: 0o600 });
    renameSync(temporary, file);
  } catch (error) {
    rmSync(temporary, { force: true });
    throw error;
  }
}

export function isSettingName(text: string): text is SettingName {
  return Object.hasOwn(SETTINGS, text);
}
