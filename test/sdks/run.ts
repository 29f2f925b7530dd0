/**
 * S2's own clients in other languages against a store of ours, as their users get them: `npm run test:sdks`.
 *
 *   the Python SDK   from PyPI, into a virtual environment that is kept; needs python3
 *   the s2 CLI       what S2_CLI names, or `s2` on the PATH (cargo install s2-cli)
 *
 * What cannot be had is skipped by name. The TypeScript SDK is part of `npm test`.
 */
import { spawn, spawnSync } from 'node:child_process';
import { once } from 'node:events';
import { existsSync, mkdirSync } from 'node:fs';
import { mkdtemp, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import path from 'node:path';
import { fileURLToPath } from 'node:url';
import { processHarness } from '@millrace/testkit/process-harness';
import { cliSession } from './cli-session.ts';

const PYTHON_SDK = 's2-sdk==0.13.0';
const CLI = fileURLToPath(new URL('../../packages/cli/src/main.ts', import.meta.url));
const CACHE = fileURLToPath(new URL('../../node_modules/.cache/millrace/python-sdk', import.meta.url));

let passed = 0;
let failed = 0;
let skipped = 0;

const dir = await mkdtemp(path.join(tmpdir(), 'millrace-sdks-'));
const server = processHarness({ args: [CLI, 'store', '--data', path.join(dir, 'data'), '--port', '0'] });
try {
  server.start();
  const token = (await server.waitForLine(/S2_ACCESS_TOKEN=/)).split('=')[1]!;
  const url = /http:\/\/\S+/.exec(await server.waitForLine(/listening on/))![0];
  await run('Python SDK', pythonSdk(), (python) => pythonSession(python, url, token));
  await run('s2 CLI', s2Cli(), (command) => cliSession(command, url, token, dir));
} finally {
  await server.kill('SIGTERM');
  await rm(dir, { recursive: true, force: true });
}
console.log(`${passed} passed, ${failed} failed, ${skipped} skipped`);
process.exitCode = failed > 0 ? 1 : 0;

async function run(name: string, client: string | { missing: string }, session: (client: string) => Promise<number>) {
  if (typeof client !== 'string') {
    console.log(`skipped: ${name}: ${client.missing}`);
    skipped++;
    return;
  }
  try {
    const checks = await session(client);
    console.log(`${name}: ${checks} passed`);
    passed += checks;
  } catch (error) {
    console.log(`FAILED: ${name}: ${error instanceof Error ? error.message : error}\n${server.transcript()}`);
    failed++;
  }
}

/** The interpreter that has the SDK. */
function pythonSdk(): string | { missing: string } {
  const python = path.join(CACHE, PYTHON_SDK, 'bin', 'python');
  if (existsSync(python) && spawnSync(python, ['-c', 'import s2_sdk']).status === 0) return python;
  mkdirSync(CACHE, { recursive: true });
  if (spawnSync('python3', ['-m', 'venv', path.join(CACHE, PYTHON_SDK)]).status !== 0) {
    return { missing: 'python3 with venv is not there' };
  }
  const install = spawnSync(python, ['-m', 'pip', 'install', '--quiet', PYTHON_SDK], { encoding: 'utf8' });
  return install.status === 0 ? python : { missing: `pip could not install ${PYTHON_SDK}` };
}

async function pythonSession(python: string, url: string, token: string): Promise<number> {
  const script = fileURLToPath(new URL('python-session.py', import.meta.url));
  const child = spawn(python, [script, url, token], { stdio: ['ignore', 'pipe', 'inherit'] });
  let output = '';
  child.stdout.setEncoding('utf8').on('data', (text: string) => {
    output += text;
  });
  const [code] = (await once(child, 'close')) as [number | null];
  if (code !== 0) throw new Error(`it ended with ${code}:\n${output}`);
  return Number(/(\d+) passed/.exec(output)![1]);
}

function s2Cli(): string | { missing: string } {
  const command = process.env.S2_CLI ?? 's2';
  return spawnSync(command, ['--version']).status === 0
    ? command
    : { missing: 'no `s2` on the PATH (cargo install s2-cli), and S2_CLI names none' };
}
