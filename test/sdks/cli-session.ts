/** The story of S2's own CLI against a store: what its users type, and what they expect to see. */
import { spawn } from 'node:child_process';
import { once } from 'node:events';
import { writeFile } from 'node:fs/promises';
import path from 'node:path';

interface Ran {
  readonly code: number | null;
  readonly out: string;
  readonly err: string;
}

/** Returns how many checks held; throws at the first that does not. */
export async function cliSession(command: string, url: string, token: string, dir: string): Promise<number> {
  const env = {
    ...process.env,
    HOME: dir,
    S2_ACCESS_TOKEN: token,
    S2_ACCOUNT_ENDPOINT: url,
    S2_BASIN_ENDPOINT: url,
  };
  let held = 0;
  const s2 = async (args: readonly string[], input = ''): Promise<Ran> => {
    const child = spawn(command, args, { env, stdio: ['pipe', 'pipe', 'pipe'] });
    let out = '';
    let err = '';
    child.stdout.setEncoding('utf8').on('data', (text: string) => {
      out += text;
    });
    child.stderr.setEncoding('utf8').on('data', (text: string) => {
      err += text;
    });
    child.stdin.on('error', () => {});
    child.stdin.end(input);
    const [code] = (await once(child, 'close')) as [number | null];
    return { code, out, err };
  };
  /** The command succeeds, and what it says, both streams together, matches. */
  const says = async (args: readonly string[], expected: RegExp, input?: string): Promise<Ran> => {
    const ran = await s2(args, input);
    const text = ran.out + ran.err;
    if (ran.code !== 0 || !expected.test(text)) {
      throw new Error(`\`s2 ${args.join(' ')}\` ended with ${ran.code}, expected ${expected}:\n${text}`);
    }
    held++;
    return ran;
  };
  const fails = async (args: readonly string[], expected: RegExp, input?: string): Promise<void> => {
    const ran = await s2(args, input);
    if (ran.code === 0 || !expected.test(ran.out + ran.err)) {
      throw new Error(`\`s2 ${args.join(' ')}\` ended with ${ran.code}, expected ${expected}:\n${ran.out}${ran.err}`);
    }
    held++;
  };

  const basin = `cli-basin-${process.pid}`;
  const uri = `s2://${basin}/products`;
  await says(['create-basin', basin, '--create-stream-on-append', '--retention-policy', '7d'], /Basin created/);
  await says(['list-basins'], new RegExp(basin));
  await says(['get-basin-config', basin], /on append|create_stream_on_append/i);
  await says(['append', uri], /APPENDED.*0\.\.3/, 'one\ntwo\nthree\n');
  await says(['read', uri, '--seq-num', '0', '--count', '3'], /one\ntwo\nthree/);
  await says(['read', uri, '--tail-offset', '1', '--count', '1', '--format', 'json'], /"body":"three"/);
  await says(['tail', uri, '--lines', '2'], /two\nthree/);
  await says(['check-tail', uri], /3 @ \d+/);
  await says(['append', uri, '--match-seq-num', '3'], /APPENDED.*3\.\.4/, 'four\n');
  await fails(['append', uri, '--match-seq-num', '3'], /mismatch/i, 'five\n');
  await says(['fence', uri, 'mine'], /fencing token/);
  await fails(['append', uri, '--fencing-token', 'other'], /fencing|mismatch/i, 'five\n');
  await says(['append', uri, '--fencing-token', 'mine'], /APPENDED.*5\.\.6/, 'five\n');
  await says(['trim', uri, '2'], /trim to 2/);
  await says(['read', uri, '--seq-num', '0', '--count', '2'], /three\nfour/);
  await says(['create-stream', `s2://${basin}/other`, '--retention-policy', 'infinite'], /Stream created/);
  await says(['get-stream-config', `s2://${basin}/other`], /infinite/i);
  await says(['reconfigure-stream', `s2://${basin}/other`, '--retention-policy', '1d'], /reconfigured/);
  await says(['list-streams', `s2://${basin}`], /products/);
  await says(['ls', basin], /other/);
  await says(['delete-stream', `s2://${basin}/other`], /deletion requested/);

  const scope = ['--basins-exact', basin, '--streams-prefix', 'pro', '--ops', 'append,check_tail'];
  const issued = await says(['issue-access-token', `cli-${process.pid}`, ...scope], /\S{20}/);
  await says(['list-access-tokens'], new RegExp(`cli-${process.pid}`));
  env.S2_ACCESS_TOKEN = issued.out.trim();
  await says(['append', uri], /APPENDED/, 'with a narrow token\n');
  await fails(['read', uri, '--seq-num', '0', '--count', '1'], /permi/i);
  env.S2_ACCESS_TOKEN = token;
  await says(['revoke-access-token', `cli-${process.pid}`], /revoked/);

  const groups = ['--basins-prefix', '', '--streams-prefix', '', '--op-group-perms', 'account=r,basin=r,stream=rw'];
  const wide = await says(['issue-access-token', `wide-${process.pid}`, ...groups, '--expires-in', '1h'], /\S{20}/);
  env.S2_ACCESS_TOKEN = wide.out.trim();
  await says(['append', uri], /APPENDED/, 'with a wide token\n');
  await fails(['create-stream', `s2://${basin}/forbidden`], /permi/i);
  env.S2_ACCESS_TOKEN = token;
  await says(['diff', '--resource', 'stream', uri, uri], /^/);

  const key = Buffer.alloc(32, 7).toString('base64');
  const other = Buffer.alloc(32, 8).toString('base64');
  const sealed = `s2://${basin}-sealed/secrets`;
  await says(
    ['create-basin', `${basin}-sealed`, '--stream-cipher', 'aes-256-gcm', '--create-stream-on-append'],
    /created/,
  );
  await says(['append', sealed, '--encryption-key', key], /APPENDED.*0\.\.1/, 'sealed\n');
  await says(['read', sealed, '--seq-num', '0', '--count', '1', '--encryption-key', key], /sealed/);
  await fails(['read', sealed, '--seq-num', '0', '--count', '1', '--encryption-key', other], /decrypt/i);
  await fails(['read', sealed, '--seq-num', '0', '--count', '1'], /encryption/i);

  await says(['list-locations'], /local/);
  await says(['get-default-location'], /local/);
  await says(['reconfigure-basin', basin, '--create-stream-on-read', 'true'], /reconfigured/);
  const lastHour = ['--start-ago', '1h', '--end-ago', '0s'];
  for (const set of ['append-ops', 'read-ops', 'read-throughput', 'append-throughput', 'basin-ops', 'storage']) {
    await says(['get-basin-metrics', basin, set, ...lastHour], /^/);
  }
  await says(['get-account-metrics', 'active-basins', ...lastHour], new RegExp(basin));
  await says(['get-account-metrics', 'account-ops', ...lastHour], /^/);
  await says(['get-stream-metrics', uri, 'storage', ...lastHour], /^/);
  const spec = path.join(dir, 'spec.json');
  await writeFile(spec, JSON.stringify({ basins: [{ name: `${basin}-applied`, streams: [{ name: 'made' }] }] }));
  await says(['apply', '-f', spec, '--dry-run'], /\+/);
  await says(['apply', '-f', spec], /Done/);
  await says(['bench', basin, '--target-mibps', '5', '--duration', '3s', '--catchup-delay', '1s'], /Catchup: /);
  await says(['delete-basin', basin], /deletion requested/);
  return held;
}
