import { once } from 'node:events';
import { readdirSync } from 'node:fs';
import { type AddressInfo, createServer } from 'node:net';
import { fileURLToPath } from 'node:url';
import { DDL_TRIGGER_REMOVAL_SQL, DDL_TRIGGER_SQL } from '@millrace/postgres/ddl-trigger';
import { describe, expect, test } from 'vitest';
import { run } from './cli-process.ts';

const NOWHERE = { MILLRACE_ENDPOINT: 'http://127.0.0.1:1' };

test('help names every command, and every command has a description and an example', async () => {
  const { stdout, code } = await run(['--help']);
  expect(code).toBe(0);
  const commands = readdirSync(fileURLToPath(new URL('../src/commands/', import.meta.url)))
    .filter((file) => file.endsWith('.ts') && !file.endsWith('.test.ts'))
    .map((file) => file.replace('.ts', '').replace('store-status', 'store status').replace('function-types', 'types'))
    // Parts of `config` and `sink`.
    .filter((name) => !/^(config-|sink-connection$)/.test(name));
  commands.push('config list', 'config get', 'config set', 'config unset');
  expect(commands.length).toBeGreaterThan(30);
  const helps = await Promise.all(commands.map((command) => run([...command.split(' '), '--help'])));
  const helpOf = new Map(commands.map((command, index) => [command, helps[index]!.stdout]));
  for (const command of commands) {
    const [first, second] = command.split(' ');
    const overview = second === undefined ? stdout : helpOf.get(first!)!;
    expect(overview).toMatch(new RegExp(`^ {2}${second ?? first}( |$)`, 'm'));
    const [, example = ''] = helpOf.get(command)!.split('Example');
    expect(example).toMatch(new RegExp(`\\$ .*millrace ${command}`));
  }
}, 60_000);

test('the SQL of the event triggers is printed, and that which removes them', async () => {
  expect((await run(['ddl-trigger'])).stdout).toBe(DDL_TRIGGER_SQL);
  expect((await run(['ddl-trigger', '--remove'])).stdout).toBe(DDL_TRIGGER_REMOVAL_SQL);
});

test('without a command, help is shown', async () => {
  const { stdout, code } = await run([]);
  expect(stdout).toContain('Usage: millrace');
  expect(code).toBe(0);
});

describe('a wrong command line ends with code 2 and says what is wrong', () => {
  test.each<[string[], string]>([
    [['raed', 's2://my-basin/x'], "unknown command 'raed'\n(Did you mean read?)"],
    [['read'], "missing required argument 'uri'"],
    [['read', 'my-basin/x'], 'expected s2://basin/stream'],
    [['read', 's2://my-basin/x', '--cuont', '1'], "unknown option '--cuont'\n(Did you mean --count?)"],
    [['read', 's2://my-basin/x', '-n', '-1'], 'expected a whole number'],
    [['read', 's2://my-basin/x', '-s', '1', '--ago', '1h'], 'cannot be used with option'],
    [['read', 's2://my-basin/x', '--ago', 'yesterday'], 'expected a duration'],
    [['read', 's2://my-basin/x', '--format', 'xml'], 'expected text, json or json-base64'],
    [['create-basin', 'Short'], '8 to 48 characters'],
    [['create-basin', 'my-basin', '--storage-class', 'slow'], 'Allowed choices are standard, express'],
    [['create-stream', 's2://my-basin/x', '--retention-policy', '0s'], 'at least 1s'],
    [['issue-access-token', 'x', '--ops', 'append,fly'], '"fly" is not an operation'],
    [['issue-access-token', 'x', '--op-group-perms', 'stream=x'], 'expected account=rw'],
    [['issue-access-token', 'x', '--basins-exact', 'a', '--basins-prefix', 'b'], 'cannot be used with option'],
    [['list-streams', 's2://my-basin/a', '--prefix', 'b'], 'give the prefix once'],
    [['store', '--data', '/tmp/x', '--port', '70000'], 'expected a port'],
    [['store', '--data', '/tmp/x', '--tls-self', '--tls-cert', 'x'], 'cannot be used with option'],
    [['store', '--data', '/tmp/x', '--append-inflight-max', '1KiB'], '1MiB at least'],
    [['bench', 'my-basin', '-b', '5'], 'expected 128 to 1048575 bytes'],
    [['bench', 'my-basin', '-t', '0'], 'expected a number above 0'],
    [['get-basin-metrics', 'my-basin', 'storag'], 'Allowed choices are storage'],
    [
      ['get-account-metrics', 'account-ops', '--start-ago', '1h', '--start-timestamp', '5'],
      'cannot be used with option',
    ],
    [['diff', 'my-basin', 's2://my-basin/x'], 'compare two of the same kind'],
    [['read', 's2://my-basin/x', '-k', 'short'], 'the encryption key is not 32 bytes in base64'],
    [['apply'], 'give the file with -f FILE'],
    [['config', 'set', 'endpont', 'x'], 'expected one of access_token'],
    [['store'], "required option '-d, --data <dir>' not specified"],
    [['start'], "required option '-d, --data <dir>' not specified"],
  ])('%j', async (args, message) => {
    const { stdout, stderr, code } = await run(args, NOWHERE);
    expect(stderr).toContain(message);
    expect(stdout).toBe('');
    expect(code).toBe(2);
  });
});

test('a store that is not there is named, with what to do', async () => {
  const free = createServer().listen(0, '127.0.0.1');
  await once(free, 'listening');
  const url = `http://127.0.0.1:${(free.address() as AddressInfo).port}`;
  free.close();
  await once(free, 'close');
  const { stderr, code } = await run(['check-tail', 's2://my-basin/x', '--endpoint', url]);
  expect(stderr).toBe(
    `ECONNREFUSED: cannot reach ${url}.\n\n` +
      'Is it running? Start one with: millrace store --data DIR\n' +
      'Or say where it is: --endpoint URL, or MILLRACE_ENDPOINT.\n',
  );
  expect(code).toBe(1);
});

test('a missing or wrong config file is refused before anything starts', async () => {
  const missing = await run(['start', '--config', '/nowhere/millrace.yaml', '--data', '/nowhere/data']);
  expect(missing.stderr).toContain('/nowhere/millrace.yaml: there is no such file.\n\n(config_unreadable)');
  expect(missing.code).toBe(1);
});
