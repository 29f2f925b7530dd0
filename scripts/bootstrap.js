/**
 * The first step of every `npm run` command: installs what is missing, then runs the command on the Node that the
 * project brings along. Plain JavaScript without dependencies, because it runs before there are any, on the system's
 * Node (18 or later).
 *
 *   node scripts/bootstrap.js <demo|example:inventory|test|test:matrix|test:crash|test:sinks-crash|test:random|test:linear|test:disk-faults|test:object-storage|test:sdks|bench|check> [arguments of the command]
 */
import { spawn } from 'node:child_process';
import { existsSync, readFileSync } from 'node:fs';
import { constants } from 'node:os';
import { delimiter, dirname, join, sep } from 'node:path';
import { fileURLToPath } from 'node:url';

const NODE_MAJOR_MIN = 24;
/**
 * `npm test` runs on 17 and, in part, on the oldest major: work is done against the newer one, so what breaks by accident
 * is a function, a column or an option that the old one does not have. `npm run test:matrix` has them all.
 */
const POSTGRES_ALSO = process.platform === 'linux' && process.arch === 'x64' ? '14' : '15';
/** A terminal and npm both pass on one Ctrl-C: what comes within this time is the same one. */
const SAME_SIGNAL_MS = 300;
const ORPHAN_CHECK_MS = 1_000;

const root = dirname(dirname(fileURLToPath(import.meta.url)));
const modules = join(root, 'node_modules');
const bundledNode = join(modules, 'node', 'bin', 'node');

const TYPECHECK = { title: 'typecheck', args: [join(modules, 'typescript', 'bin', 'tsc'), '-p', 'tsconfig.json'] };
const LINT = { title: 'lint', args: [join(modules, '@biomejs', 'biome', 'bin', 'biome'), 'check', '.'] };

const storeCampaign = (name, args) => ({
  title: `${name} campaign`,
  args: [join(root, 'packages', 'stream-store', 'test', name, 'campaign.ts'), ...args],
});

/** The steps of each command: the first that fails ends it. */
const commands = {
  demo: (args) => [{ title: 'demo', args: [join(root, 'packages', 'cli', 'bin', 'millrace.js'), 'demo', ...args] }],
  'example:inventory': (args) => [{ title: 'example', args: [join(root, 'examples', 'inventory', 'run.ts'), ...args] }],
  // Vitest last: its summary is the end of the output. Arguments choose tests, so nothing else is checked then, and
  // nothing is run a second time on another Postgres (vitest.config.ts).
  test: (args) => [
    ...(args.length === 0 ? [TYPECHECK, LINT] : []),
    {
      title: 'tests',
      args: [join(modules, 'vitest', 'vitest.mjs'), 'run', ...args],
      env: args.length === 0 ? { MILLRACE_TEST_ALSO_MAJOR: POSTGRES_ALSO } : {},
    },
  ],
  'test:matrix': (args) => [{ title: 'Postgres matrix', args: [join(root, 'test', 'matrix', 'run.ts'), ...args] }],
  'test:crash': (args) => [{ title: 'crash campaign', args: [join(root, 'test', 'crash', 'campaign.ts'), ...args] }],
  'test:sinks-crash': (args) => [
    { title: 'crash campaign of sinks', args: [join(root, 'test', 'sinks-crash', 'campaign.ts'), ...args] },
  ],
  'test:random': (args) => [{ title: 'random run', args: [join(root, 'test', 'random', 'run.ts'), ...args] }],
  'test:sdks': (args) => [{ title: 'other SDKs', args: [join(root, 'test', 'sdks', 'run.ts'), ...args] }],
  'test:linear': (args) => [storeCampaign('linearizability', args)],
  'test:disk-faults': (args) => [storeCampaign('disk-faults', args)],
  'test:object-storage': (args) => [storeCampaign('object-storage', args)],
  bench: (args) => [{ title: 'bench', args: [join(root, 'bench', 'run.ts'), ...args] }],
  check: () => [TYPECHECK, LINT],
};

await main(process.argv.slice(2));

async function main([name, ...args]) {
  const steps = Object.hasOwn(commands, name ?? '') ? commands[name] : undefined;
  if (steps === undefined) {
    say(`usage: node scripts/bootstrap.js <${Object.keys(commands).join('|')}> [arguments]`);
    process.exit(2);
  }
  await install();
  const node = usableNode();
  if (args[0] === '--') args.shift();
  const list = steps(args);
  for (const step of list) {
    const code = await run(node, step.args, step.env);
    if (code === 0) continue;
    if (list.length > 1) say(`${step.title} failed`);
    process.exit(code);
  }
}

function say(text) {
  process.stderr.write(`millrace: ${text}\n`);
}

// Installing

async function install() {
  if (isInstalled()) return;
  const started = Date.now();
  say('installing packages (only when they are missing or have changed) ...');
  const command = existsSync(join(root, 'package-lock.json')) ? 'ci' : 'install';
  // Whatever the user's npm settings say, the tests need the development packages and the demo the optional Postgres.
  const flags = ['--include=dev', '--include=optional', '--engine-strict=false', '--no-audit', '--no-fund'];
  await quietly(npm([command, ...flags, '--loglevel=error']), root);
  // Where install scripts are blocked, the package `node` came without its binary.
  if (!existsSync(bundledNode) && existsSync(join(modules, 'node'))) {
    await quietly([systemNode(), ['installArchSpecificPackage.js']], join(modules, 'node'));
  }
  say(`installed in ${Math.round((Date.now() - started) / 1000)} s`);
}

/**
 * Whether node_modules holds what package-lock.json names. npm writes node_modules/.package-lock.json as the last step
 * of an installation, so one that was cut off is noticed too.
 */
function isInstalled() {
  try {
    const wanted = JSON.parse(readFileSync(join(root, 'package-lock.json'), 'utf8')).packages;
    const found = JSON.parse(readFileSync(join(modules, '.package-lock.json'), 'utf8')).packages;
    return existsSync(bundledNode) && Object.keys(wanted).every((path) => isPlaced(path, wanted[path], found[path]));
  } catch {
    return false;
  }
}

function isPlaced(path, wanted, found) {
  // Optional packages are mostly other platforms'; a missing one is reported by whoever needs it.
  if (path === '' || wanted.optional === true || wanted.devOptional === true) return true;
  if (found === undefined || found.version !== wanted.version || found.integrity !== wanted.integrity) return false;
  return existsSync(join(root, path, 'package.json'));
}

function npm(args) {
  // Set by npm for the scripts it runs: the very npm the user called, without a shell in between.
  const own = process.env.npm_execpath;
  return own?.endsWith('.js') ? [systemNode(), [own, ...args]] : ['npm', args];
}

/** A Node that an installation does not delete under its own feet: `npm run` finds the bundled one first. */
function systemNode() {
  const outside = (path) => path !== undefined && !path.startsWith(modules + sep) && existsSync(path);
  return [process.env.npm_node_execpath, process.execPath].find(outside) ?? 'node';
}

function quietly([command, args], cwd) {
  return new Promise((done) => {
    const path = (process.env.PATH ?? '').split(delimiter).filter((each) => !each.startsWith(modules));
    const child = spawn(command, args, {
      cwd,
      env: { ...process.env, PATH: path.join(delimiter) },
      stdio: ['ignore', 'pipe', 'pipe'],
    });
    let output = '';
    child.stdout.on('data', (chunk) => (output += chunk));
    child.stderr.on('data', (chunk) => (output += chunk));
    child.on('error', (error) => fail(`${command}: ${error.message}`));
    child.on('close', (code) => (code === 0 ? done() : fail(output.trim())));
  });
  function fail(reason) {
    say(`installing failed:\n${reason}`);
    process.exit(1);
  }
}

function usableNode() {
  if (existsSync(bundledNode)) return bundledNode;
  if (Number(process.versions.node.split('.')[0]) >= NODE_MAJOR_MIN) return process.execPath;
  say(`there is no Node ${NODE_MAJOR_MIN} in ${modules}, and this is Node ${process.versions.node}.`);
  say('Install Node 24 or later, or run `npm rebuild node` with install scripts allowed.');
  return process.exit(1);
}

// Running

/** Resolves with the exit code; a signal counts as the shell counts it. */
function run(node, args, env = {}) {
  // A session of its own, so that Ctrl-C reaches the child once, by us, and not also from the terminal and from npm.
  const child = spawn(node, args, {
    cwd: root,
    detached: process.platform !== 'win32',
    // What the caller sets himself is left as it is: an empty one turns the second Postgres off.
    env: { ...env, ...process.env, PATH: [join(modules, '.bin'), process.env.PATH ?? ''].join(delimiter) },
    stdio: 'inherit',
  });
  const guard = startGuard(child);
  const lastAt = {};
  const forward = (signal) => {
    const now = Date.now();
    if (now - (lastAt[signal] ?? 0) > SAME_SIGNAL_MS) child.kill(signal);
    lastAt[signal] = now;
  };
  // `kill` of npm ends npm and its shell, and tells us nothing: being orphaned has to do.
  const parent = process.ppid;
  const orphaned = setInterval(() => {
    if (process.env.npm_lifecycle_event === undefined || process.ppid === parent) return;
    clearInterval(orphaned);
    forward('SIGTERM');
  }, ORPHAN_CHECK_MS);
  const signals = ['SIGINT', 'SIGTERM', 'SIGHUP', 'SIGQUIT'];
  for (const signal of signals) process.on(signal, forward);
  return new Promise((done) => {
    const end = (code) => {
      for (const signal of signals) process.off(signal, forward);
      clearInterval(orphaned);
      guard?.kill('SIGKILL');
      done(code);
    };
    child.on('error', (error) => {
      say(`${node}: ${error.message}`);
      end(1);
    });
    child.on('exit', (code, signal) => end(code ?? 128 + (constants.signals[signal] ?? 0)));
  });
}

/** In a session of its own the child would outlive us when we are killed; a shell waits for the end of a pipe of ours. */
function startGuard(child) {
  if (process.platform === 'win32' || child.pid === undefined) return null;
  const script = `trap '' INT TERM HUP QUIT; cat >/dev/null; kill -TERM "$1" 2>/dev/null`;
  const guard = spawn('/bin/sh', ['-c', script, 'millrace-guard', String(child.pid)], {
    detached: true,
    stdio: ['pipe', 'ignore', 'ignore'],
  });
  guard.on('error', () => {});
  guard.stdin.on('error', () => {});
  guard.unref();
  guard.stdin.unref();
  return guard;
}
