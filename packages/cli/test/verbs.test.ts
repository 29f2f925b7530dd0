import { mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { S2 } from '@s2-dev/streamstore';
import { afterAll, beforeAll, describe, expect, test, vi } from 'vitest';
import { type Finished, launch, run, type StoreProcess, startStore } from './cli-process.ts';

/** Every verb against a real `millrace store`, with stdout and stderr to the letter. */

vi.setConfig({ testTimeout: 90_000 });

let store: StoreProcess;
let dir: string;

beforeAll(async () => {
  store = await startStore();
  dir = mkdtempSync(join(tmpdir(), 'millrace-verbs-'));
  expect(await cli('create-basin', 'verb-tests', '--create-stream-on-append')).toEqual(done('✓ Basin created\n'));
});

afterAll(async () => {
  await store?.[Symbol.asyncDispose]();
  rmSync(dir, { recursive: true, force: true });
});

function cli(...args: string[]): Promise<Finished> {
  return run(args, store.env);
}

function cliWithInput(input: string, ...args: string[]): Promise<Finished> {
  return run(args, store.env, input);
}

const done = (stderr: string): Finished => ({ stdout: '', stderr, code: 0 });
const data = (stdout: string): Finished => ({ stdout, stderr: '', code: 0 });

describe('append, read and tail', () => {
  test('lines become records and come back, in every format', async () => {
    const uri = 's2://verb-tests/greetings';
    const appended = await cliWithInput('hello\nwörld\n\n', 'append', uri, '--linger', '200ms');
    expect(appended).toMatchObject({ stdout: '', code: 0 });
    expect(appended.stderr).toMatch(/^✓ \[APPENDED\] 0\.\.3 \/\/ tail: 3 @ \d{13}\n$/);

    expect(await cli('read', uri, '-n', '3')).toEqual({
      stdout: 'hello\nwörld\n\n',
      stderr: '⦿ 35 bytes (3 records in range 0..=2)\n',
      code: 0,
    });
    const json = await cli('read', uri, '-s', '1', '-n', '1', '--format', 'json');
    expect(json.stdout).toMatch(/^\{"seq_num":1,"timestamp":\d{13},"body":"wörld"\}\n$/);
    expect(json.stderr).toBe('⦿ 14 bytes (1 record in range 1..=1)\n');
    const base64 = await cli('read', uri, '-s', '1', '-n', '1', '--format', 'json-base64');
    expect(base64.stdout).toContain('"body":"d8O2cmxk"');

    const tail = await cli('check-tail', uri);
    expect(tail.stdout).toMatch(/^3 @ \d{13}\n$/);
    expect((await cli('check-tail', uri, '--json')).stdout).toMatch(
      /^\{"tail":\{"seq_num":3,"timestamp":\d{13}\}\}\n$/,
    );
    expect(await cli('tail', uri, '-n', '2')).toEqual(data('wörld\n\n'));
  });

  test('headers, timestamps and any bytes pass through json-base64', async () => {
    const uri = 's2://verb-tests/binary';
    const line = '{"timestamp":1700000000000,"headers":[["aw==","/w=="]],"body":"AP8K"}\n';
    expect((await cliWithInput(line, 'append', uri, '--format', 'json-base64')).code).toBe(0);
    const { stdout } = await cli('read', uri, '-n', '1', '--format', 'base64');
    expect(JSON.parse(stdout)).toEqual({
      seq_num: 0,
      timestamp: 1_700_000_000_000,
      headers: [['aw==', '/w==']],
      body: 'AP8K',
    });
  });

  test('records come from and go into files', async () => {
    const uri = 's2://verb-tests/files';
    writeFileSync(join(dir, 'in'), 'one\r\ntwo');
    writeFileSync(join(dir, 'out'), 'something longer than what comes');
    expect((await cli('append', uri, '-i', join(dir, 'in'))).code).toBe(0);
    expect((await cli('read', uri, '-n', '2', '-o', join(dir, 'out'))).stdout).toBe('');
    expect(readFileSync(join(dir, 'out'), 'utf8')).toBe('one\ntwo\n');
    const missing = await cli('append', uri, '-i', join(dir, 'nothing'));
    expect(missing.stderr).toContain('ENOENT: no such file or directory');
    expect(missing.code).toBe(1);
  });

  test('a bad line is named; the lines before it are appended', async () => {
    const uri = 's2://verb-tests/bad-line';
    const result = await cliWithInput('{"body":"a"}\n{"body":"b"}\nnonsense\n', 'append', uri, '--format', 'json');
    expect(result.stderr).toMatch(/✓ \[APPENDED\] 0\.\.2 /);
    expect(result.stderr).toContain('bad_record: line 3: not valid JSON.\n');
    expect(result.code).toBe(1);
    expect((await cli('read', uri, '-n', '2')).stdout).toBe('a\nb\n');
  });

  test('more than a batch arrives whole and in order', async () => {
    const uri = 's2://verb-tests/many';
    const lines = Array.from({ length: 2500 }, (_, index) => `line ${index}`);
    const appended = await cliWithInput(`${lines.join('\n')}\n`, 'append', uri);
    expect(appended.stderr.trim().split('\n').at(-1)).toMatch(/\.\.2500 \/\/ tail: 2500 @/);
    const read = await cli('read', uri, '-n', '2500');
    expect(read.stdout).toBe(`${lines.join('\n')}\n`);
    expect(read.stderr).toMatch(/records in range 0\.\.=/);
    expect(read.stderr).toMatch(/\.\.=2499\)\n$/);
  });

  test('read positions: tail offset, timestamp, ago, until, bytes', async () => {
    const uri = 's2://verb-tests/positions';
    const lines = [10, 20, 30].map((timestamp) => JSON.stringify({ timestamp, body: `t${timestamp}` }));
    expect((await cliWithInput(lines.join('\n'), 'append', uri, '--format', 'json')).code).toBe(0);
    expect((await cli('read', uri, '--tail-offset', '1', '-n', '9')).stdout).toBe('t30\n');
    expect((await cli('read', uri, '--timestamp', '11', '-n', '9')).stdout).toBe('t20\nt30\n');
    expect((await cli('read', uri, '--until', '30')).stdout).toBe('t10\nt20\n');
    expect((await cli('read', uri, '-b', '25')).stdout).toBe('t10\nt20\n');
    expect((await cli('read', uri, '--ago', '100y', '-n', '1')).stdout).toBe('t10\n');
  });

  test('a start beyond the tail is refused, or clamped to it', async () => {
    const uri = 's2://verb-tests/beyond';
    await cliWithInput('x\n', 'append', uri);
    const refused = await cli('read', uri, '-s', '9', '-n', '1');
    expect(refused.stderr).toMatch(
      /^range_not_satisfiable: there is nothing to read from this position; the tail is 1 @ /,
    );
    expect(refused.code).toBe(1);
    const following = launch(['read', uri, '-s', '9', '--clamp'], store.env);
    await cliWithInput('y\n', 'append', uri);
    // Clamped, so what comes after the command began is all it prints: at the latest this third record.
    const appendMore = setInterval(() => void cliWithInput('z\n', 'append', uri), 500);
    const text = await following.stdoutUntil((out) => out.includes('\n'));
    clearInterval(appendMore);
    expect(text).not.toContain('x');
    following.child.kill('SIGINT');
    expect((await following.finished).code).toBe(130);
  });

  test('a followed stream shows records as they come, until Ctrl-C', async () => {
    const uri = 's2://verb-tests/live';
    await cliWithInput('first\n', 'append', uri);
    const read = launch(['read', uri], store.env);
    const tail = launch(['tail', uri, '-f'], store.env);
    await Promise.all([read.stdoutUntil((text) => text === 'first\n'), tail.stdoutUntil((text) => text === 'first\n')]);
    await cliWithInput('second\n', 'append', uri);
    const both = (text: string): boolean => text === 'first\nsecond\n';
    await Promise.all([read.stdoutUntil(both), tail.stdoutUntil(both)]);
    read.child.kill('SIGINT');
    tail.child.kill('SIGINT');
    expect(await read.finished).toEqual({
      stdout: 'first\nsecond\n',
      stderr: '⦿ 13 bytes (1 record in range 0..=0)\n⦿ 14 bytes (1 record in range 1..=1)\n■ [ABORTED]\n',
      code: 130,
    });
    expect(await tail.finished).toEqual({ stdout: 'first\nsecond\n', stderr: '■ [ABORTED]\n', code: 130 });
  });

  test('records are appended while stdin is still open', async () => {
    const uri = 's2://verb-tests/slow-input';
    const append = launch(['append', uri], store.env);
    append.child.stdin!.write('one\n');
    await append.stderrUntil((text) => text.includes('[APPENDED] 0..1'));
    append.child.stdin!.end('two\n');
    const { stderr, code } = await append.finished;
    expect(stderr).toContain('[APPENDED] 1..2');
    expect(code).toBe(0);
  });

  test('closing the pipe ends a read quietly', async () => {
    const uri = 's2://verb-tests/many';
    const read = launch(['read', uri], store.env);
    await read.stdoutUntil((text) => text.includes('\n'));
    read.child.stdout!.destroy();
    await cliWithInput('one more\n', 'append', uri);
    const { stderr, code } = await read.finished;
    expect(stderr).not.toContain('EPIPE');
    expect(code).toBe(0);
  });

  test('tail of an empty stream prints nothing', async () => {
    expect(await cli('create-stream', 's2://verb-tests/empty')).toEqual(done('✓ Stream created\n'));
    expect(await cli('tail', 's2://verb-tests/empty')).toEqual(data(''));
  });
});

describe('fence and trim', () => {
  test('print what they appended and show up in reads', async () => {
    const uri = 's2://verb-tests/commands';
    await cliWithInput('a\nb\n', 'append', uri, '--linger', '200ms');
    const fenced = await cli('fence', uri, 'me');
    expect(fenced).toMatchObject({ stdout: '', code: 0 });
    expect(fenced.stderr).toMatch(/^✓ \[APPENDED\] new fencing token "me" \/\/ tail: 2 @ \d{13}\n$/);
    const trimmed = await cli('trim', uri, '1', '-f', 'me', '-m', '3');
    expect(trimmed.stderr).toMatch(/^✓ \[APPENDED\] trim to 1 \/\/ tail: 3 @ \d{13}\n$/);

    const read = await cli('read', uri, '-s', '1', '-n', '3');
    expect(read.stdout).toBe('b\n');
    expect(read.stderr).toMatch(
      /^⦿ \d+ bytes \(3 records in range 1\.\.=3\)\nnew fencing token "me" \/\/ 2 @ \d{13}\ntrim to 1 \/\/ 3 @ \d{13}\n$/,
    );

    const shutOut = await cliWithInput('c\n', 'append', uri, '-f', 'you');
    expect(shutOut.stderr).toBe('fencing_token_mismatch: the fencing token of the stream is "me".\n');
    expect(shutOut.code).toBe(1);
    const late = await cliWithInput('c\n', 'append', uri, '-m', '2');
    expect(late.stderr).toBe('seq_num_mismatch: the next sequence number of the stream is 4.\n');
  });
});

describe('basins and streams', () => {
  test('are created, listed, shown, changed and deleted', async () => {
    const created = await cli(
      ...['create-basin', 's2://other-basin', '--retention-policy', '1h', '--create-stream-on-read'],
      ...['--timestamping-mode', 'arrival', '--delete-on-empty-min-age', '1d', '--storage-class', 'standard'],
    );
    expect(created).toEqual(done('✓ Basin created\n'));
    expect(await cli('get-basin-config', 'other-basin')).toEqual(
      data(
        'default_stream_config.storage_class            standard\n' +
          'default_stream_config.retention_policy         1h\n' +
          'default_stream_config.timestamping.mode        arrival\n' +
          'default_stream_config.delete_on_empty.min_age  1day\n' +
          'stream_cipher                                  none\n' +
          'create_stream_on_append                        false\n' +
          'create_stream_on_read                          true\n',
      ),
    );
    const changed = await cli('reconfigure-basin', 'other-basin', '--create-stream-on-read', 'false');
    expect(changed.stderr).toBe('✓ Basin reconfigured\n');
    expect(changed.stdout).toMatch(/^create_stream_on_read {2,}false$/m);

    expect((await cli('list-basins', '--prefix', 'other')).stdout).toBe('other-basin (local)\n');
    expect((await cli('ls')).stdout).toBe('other-basin (local)\nverb-tests (local)\n');
    const [basin] = (await cli('list-basins', '-n', '1', '--json')).stdout.trim().split('\n');
    expect(JSON.parse(basin!)).toMatchObject({ name: 'other-basin', created_at: expect.any(String) });

    const names = ['b', 'a/1', 'a/2', 'ü'];
    const creations = names.map((name) => cli('create-stream', `s2://other-basin/${name}`, '--timestamping-uncapped'));
    expect(await Promise.all(creations)).toEqual(names.map(() => done('✓ Stream created\n')));
    expect((await cli('list-streams', 'other-basin')).stdout).toBe(
      's2://other-basin/a/1\ns2://other-basin/a/2\ns2://other-basin/b\ns2://other-basin/ü\n',
    );
    expect((await cli('list-streams', 's2://other-basin/a/', '-s', 'a/1')).stdout).toBe('s2://other-basin/a/2\n');
    expect((await cli('ls', 'other-basin', '-n', '1')).stdout).toMatch(
      /^s2:\/\/other-basin\/a\/1 \d{4}-\d\d-\d\dT[\d:.]+Z\n$/,
    );

    const shown = await cli('get-stream-config', 's2://other-basin/b');
    expect(shown.stdout).toMatch(/^timestamping\.uncapped {2,}true$/m);
    const asJson = JSON.parse((await cli('get-stream-config', 's2://other-basin/b', '--json')).stdout);
    expect(asJson).toMatchObject({
      retention_policy: { age: 3600 },
      timestamping: { mode: 'arrival', uncapped: true },
      delete_on_empty: { min_age_secs: 86_400 },
    });
    const reconfigured = await cli('reconfigure-stream', 's2://other-basin/b', '--retention-policy', 'infinite');
    expect(reconfigured.stderr).toBe('✓ Stream reconfigured\n');
    expect(reconfigured.stdout).toMatch(/^retention_policy {2,}infinite$/m);

    expect(await cli('delete-stream', 's2://other-basin/b')).toEqual(done('✓ Stream deletion requested\n'));
    expect(await cli('delete-basin', 'other-basin')).toEqual(done('✓ Basin deletion requested\n'));
  });

  test('a list longer than a page is printed whole, or one page of it', async () => {
    await cli('create-basin', 'zz-long-list');
    const s2 = new S2({ accessToken: store.rootToken, endpoints: { account: store.url, basin: store.url } });
    const { streams } = s2.basin('zz-long-list');
    const names = Array.from({ length: 1003 }, (_, index) => `s${String(index).padStart(4, '0')}`);
    for (let at = 0; at < names.length; at += 100) {
      await Promise.all(names.slice(at, at + 100).map((stream) => streams.create({ stream })));
    }
    const whole = names.map((name) => `s2://zz-long-list/${name}\n`);
    expect(await cli('list-streams', 'zz-long-list')).toEqual(data(whole.join('')));
    expect((await cli('list-streams', 'zz-long-list', '--no-auto-paginate')).stdout).toBe(
      whole.slice(0, 1000).join(''),
    );
    expect((await cli('list-streams', 'zz-long-list', '-n', '1001')).stdout).toBe(whole.slice(0, 1001).join(''));
  });

  test('what is missing or there already is said, with what to do', async () => {
    const stream = await cli('read', 's2://verb-tests/nowhere', '-n', '1');
    expect(stream.stderr).toMatch(/^stream_not_found: .+\n\nSee what is there: millrace ls BASIN\./);
    expect(stream.code).toBe(1);
    const basin = await cli('create-stream', 's2://nowhere-at-all/x');
    expect(basin.stderr).toMatch(/^basin_not_found: .+\n\nSee what is there: millrace list-basins\./);
    const again = await cli('create-basin', 'verb-tests');
    expect(again.stderr).toMatch(/^resource_already_exists: /);
    expect(again.code).toBe(1);
  });
});

describe('access tokens', () => {
  test('may do what they were issued for and nothing else, until revoked', async () => {
    const issued = await cli(
      ...['issue-access-token', 'writer', '--basins-exact', 'verb-tests', '--streams-prefix', ''],
      ...['--ops', 'append', '--expires-in', '1h'],
    );
    expect(issued).toMatchObject({ stderr: '', code: 0 });
    expect(issued.stdout).toMatch(/^\S+\n$/);
    const token = issued.stdout.trim();

    const append = await run(['append', 's2://verb-tests/tokens', '--token', token], store.env, 'x\n');
    expect(append.stderr).toMatch(/^✓ \[APPENDED\] 0\.\.1 /);
    const read = await run(['read', 's2://verb-tests/tokens', '-n', '1'], { ...store.env, S2_ACCESS_TOKEN: token });
    expect(read.stderr).toMatch(/^permission_denied: /);
    expect(read.code).toBe(1);

    const listed = await cli('list-access-tokens');
    expect(listed.stdout).toMatch(/^writer {2}basins "verb-tests" {2}streams \* {2}append {2}expires \d{4}-.+Z$/m);
    expect(listed.stdout).not.toContain(token);

    expect(await cli('revoke-access-token', 'writer')).toEqual(done("✓ Access token 'writer' revoked\n"));
    const revoked = await run(['append', 's2://verb-tests/tokens', '--token', token], store.env, 'x\n');
    expect(revoked.stderr).toMatch(/^authn: .+\n\nThe token is not \(or no longer\) known to this store\./);
    const unknown = await cli('revoke-access-token', 'writer');
    expect(unknown.stderr).toMatch(/^access_token_not_found: /);
  });

  test('without one, a request is refused with where to find one', async () => {
    const { stderr, code } = await run(['list-basins'], { MILLRACE_ENDPOINT: store.url });
    expect(stderr).toMatch(/^authn: .+\n\nSet S2_ACCESS_TOKEN or --token\./);
    expect(code).toBe(1);
  });
});
