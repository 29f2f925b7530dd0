/**
 * Servers out of packages of Debian, or one of its kin, without installing them and without root: apt downloads them
 * from the machine's own sources, with lists of packages of our own (those of the machine may be old or absent), and
 * they are unpacked into a directory of the cache. What such a package needs and the machine has not is unpacked too.
 */
import { existsSync, mkdirSync, mkdtempSync, readdirSync, rmSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { cached, onPath, run } from './provision.ts';

export interface DebianTree {
  /** In it paths are those of a system, as in `usr/bin/redis-server`. */
  readonly root: string;
  /** For LD_LIBRARY_PATH of its programs. */
  readonly libraries: string;
}

export interface DebianPackages {
  readonly packages: readonly string[];
  /** Names of packages that apt would install with them, and that a server of a test runs without. */
  readonly without?: RegExp;
}

/** The tree of this name, made the first time somebody asks. */
export async function debianTree(name: string, wanted: DebianPackages): Promise<DebianTree> {
  const root = await cached(`debian-${name}`, (into) => unpack(into, wanted));
  const libraries = ['usr/lib', 'lib'].flatMap((folder) => {
    const path = join(root, folder);
    // Named for the machine: x86_64-linux-gnu.
    return existsSync(path)
      ? readdirSync(path)
          .filter((inner) => /-linux-/.test(inner))
          .map((inner) => join(path, inner))
      : [];
  });
  return { root, libraries: libraries.join(':') };
}

async function unpack(into: string, { packages, without }: DebianPackages): Promise<void> {
  if (onPath('apt-get') === null || onPath('dpkg-deb') === null) throw new Error('this is no Debian to fetch it from');
  // A day's lists are good for all that is fetched that day.
  const lists = await cached(`debian-lists-${new Date().toISOString().slice(0, 10)}`, updateLists);
  const scratch = mkdtempSync(join(into, 'apt-'));
  const apt = configure(scratch, lists);
  const plan = await apt(['--simulate', 'install', '--no-install-recommends', ...packages]);
  const absent = [...plan.matchAll(/^Inst (\S+)/gm)].map(([, name]) => name as string);
  const needed = absent.filter((name) => without?.test(name) !== true);
  await apt(['download', ...new Set([...packages, ...needed])]);
  const archives = readdirSync(scratch).filter((name) => name.endsWith('.deb'));
  for (const archive of archives) await run('dpkg-deb', ['-x', join(scratch, archive), into]);
  rmSync(scratch, { recursive: true });
}

async function updateLists(into: string): Promise<void> {
  mkdirSync(join(into, 'lists', 'partial'), { recursive: true });
  const scratch = mkdtempSync(join(into, 'apt-'));
  await configure(scratch, into)(['update']);
  rmSync(scratch, { recursive: true });
}

type Apt = (args: readonly string[]) => Promise<string>;

/** apt-get with directories of its own, and without the commands that a machine runs after its own updates. */
function configure(scratch: string, lists: string): Apt {
  mkdirSync(join(scratch, 'archives', 'partial'), { recursive: true });
  const file = join(scratch, 'apt.conf');
  const settings = {
    'Dir::State::lists': join(lists, 'lists'),
    'Dir::Cache': scratch,
    // What apt makes of the lists, which takes it longer than all else: once for all that is fetched.
    'Dir::Cache::pkgcache': join(lists, 'pkgcache.bin'),
    'Dir::Cache::srcpkgcache': join(lists, 'srcpkgcache.bin'),
    // Descriptions in other languages and what software centres show: nobody reads it here.
    'Acquire::Languages': 'none',
    'Acquire::IndexTargets::deb::DEP-11::DefaultEnabled': 'false',
    // As root apt would become a user that may not write here.
    'APT::Sandbox::User': 'root',
  };
  const lines = Object.entries(settings).map(([key, value]) => `${key} "${value}";`);
  writeFileSync(file, `#clear APT::Update;\n#clear DPkg::Post-Invoke;\n${lines.join('\n')}\n`);
  return (args) => run('apt-get', ['-q', '-c', file, ...args], { cwd: scratch });
}
