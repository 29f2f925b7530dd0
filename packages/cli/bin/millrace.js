#!/usr/bin/env -S node --max-semi-space-size=16 --initial-old-space-size=128
// The flags: V8 would let its young generation grow beyond 100 MB, without a gain that could be measured; and it would look
// through the old one four times a second, with readers that follow over HTTP, because the buffers that they are sent
// count as growth of a small heap. That was the p99 of a change's way to its reader (bench, section latency).
// Plain JavaScript on purpose: it must run on the system's Node, however old, to hand over to the bundled Node 24.
import { spawn } from 'node:child_process';
import { createRequire } from 'node:module';
import { constants } from 'node:os';
import { dirname, join } from 'node:path';
import { fileURLToPath, pathToFileURL } from 'node:url';

const main = join(dirname(fileURLToPath(import.meta.url)), '..', 'src', 'main.ts');
if (Number(process.versions.node.split('.')[0]) >= 24) {
  await import(pathToFileURL(main).href);
} else {
  let node;
  try {
    node = join(dirname(createRequire(import.meta.url).resolve('node/package.json')), 'bin', 'node');
  } catch {
    console.error(`millrace needs Node 24 or later (this is ${process.version}). Run: npm install node@24`);
    process.exit(1);
  }
  const flags = ['--max-semi-space-size=16', '--initial-old-space-size=128'];
  const child = spawn(node, [...flags, main, ...process.argv.slice(2)], { stdio: 'inherit' });
  // A terminal sends Ctrl-C to both processes; forwarding it as well would count as a second one.
  process.on('SIGINT', () => process.stdin.isTTY || child.kill('SIGINT'));
  for (const signal of ['SIGTERM', 'SIGHUP']) process.on(signal, () => child.kill(signal));
  child.on('exit', (code, signal) => process.exit(code ?? 128 + (constants.signals[signal] ?? 0)));
}
