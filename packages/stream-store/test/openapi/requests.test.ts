import fc from 'fast-check';
import { beforeAll, describe, expect, it } from 'vitest';
import { type Ask, askHttp1, serveForFile } from '../serve.ts';
import { OPERATIONS_BY_ID, problemsOf, requestSchema } from './contract.ts';

/** What the document says of request bodies: the server takes the ones it allows, and no other. */

const served = await serveForFile();
const BASIN = 'request-basin';
/** Of streams: nothing reconfigures it, or an append could need timestamps. */
const STREAMS_BASIN = 'streams-basin';

beforeAll(async () => {
  for (const basin of [BASIN, STREAMS_BASIN]) await askHttp1(served, `/v1/basins/${basin}`, { method: 'PUT' });
  await askHttp1(served, '/v1/streams/x', { method: 'PUT', headers: { 's2-basin': STREAMS_BASIN } });
});

/** Values that stand where they belong, next to where they belong, and nowhere. */
const value = fc.constantFrom<unknown>(
  ...[null, true, 0, 1, 3600, -1, 1.5, '', 'x', 'standard', 'express', 'arrival', 'client-prefer', 'aes-256-gcm'],
  ...[
    {},
    [],
    { infinite: {} },
    { infinite: { a: 1 } },
    { age: 60 },
    { age: 0 },
    { age: 60, infinite: {} },
    { age: '60' },
  ],
  ...[
    { mode: 'client-require' },
    { mode: null, uncapped: true },
    { uncapped: 1 },
    { min_age_secs: 5 },
    { min_age_secs: null },
  ],
  ...[{ exact: 'x' }, { prefix: '' }, { exact: 'x', prefix: 'x' }, { read: true }, { read: null }],
  ...[['append'], ['append', 'read'], ['fly'], [5]],
);

const mostly = (usual: fc.Arbitrary<unknown>) =>
  fc.oneof({ weight: 4, arbitrary: usual }, { weight: 1, arbitrary: value });
const fields = (shape: Record<string, fc.Arbitrary<unknown>>) => fc.record(shape, { requiredKeys: [] });

const streamConfig = fields({
  storage_class: mostly(fc.constantFrom('standard', 'express', null)),
  retention_policy: mostly(fc.constantFrom({ age: 60 }, { infinite: {} }, null)),
  timestamping: mostly(fields({ mode: mostly(fc.constant('arrival')), uncapped: mostly(fc.boolean()) })),
  delete_on_empty: mostly(fields({ min_age_secs: mostly(fc.nat(100)) })),
  unknown: value,
});
const basinConfig = fields({
  default_stream_config: mostly(streamConfig),
  stream_cipher: mostly(fc.constantFrom(null, 'aes-256-gcm')),
  create_stream_on_append: mostly(fc.boolean()),
  create_stream_on_read: mostly(fc.boolean()),
});
const names = mostly(fc.constantFrom({ exact: 'some-name' }, { exact: '' }, { prefix: 's' }, { prefix: '' }));
const group = mostly(fields({ read: mostly(fc.boolean()), write: mostly(fc.boolean()) }));
const token = fc.record({
  id: fc.uuid(),
  scope: mostly(
    fc.record(
      {
        ops: mostly(fc.constantFrom(['append'], ['read', 'trim'])),
        basins: names,
        streams: names,
        access_tokens: names,
        op_groups: mostly(fields({ account: group, basin: group, stream: group })),
      },
      { requiredKeys: ['ops'] },
    ),
  ),
});
const record = fc.record(
  {
    body: mostly(fc.string()),
    headers: mostly(fc.constantFrom([['a', 'b']], [], [['a']], [['a', 1]])),
    timestamp: mostly(fc.nat()),
  },
  { requiredKeys: [] },
);
const batch = fc.record(
  { records: mostly(fc.array(record, { maxLength: 3 })), fencing_token: mostly(fc.constant(null)) },
  { requiredKeys: ['records'] },
);

interface Case {
  readonly id: string;
  readonly path: string;
  readonly body: fc.Arbitrary<unknown>;
}

const CASES: readonly Case[] = [
  { id: 'ensure_stream', path: '/v1/streams/x', body: streamConfig },
  { id: 'reconfigure_stream', path: '/v1/streams/x', body: streamConfig },
  { id: 'ensure_basin', path: `/v1/basins/${BASIN}`, body: fields({ config: mostly(basinConfig) }) },
  { id: 'reconfigure_basin', path: `/v1/basins/${BASIN}`, body: basinConfig },
  { id: 'issue_access_token', path: '/v1/access-tokens', body: token },
  { id: 'append', path: '/v1/streams/x/records', body: batch },
];

describe('a body is taken when the document allows it, and refused when it does not', () => {
  it.each(CASES)('$id', async ({ id, path, body }) => {
    const operation = OPERATIONS_BY_ID.get(id)!;
    const schema = requestSchema(operation)!;
    const seen = { taken: 0, refused: 0 };
    await fc.assert(
      fc.asyncProperty(body, async (json) => {
        const ask: Ask = { method: operation.method.toUpperCase(), headers: { 's2-basin': STREAMS_BASIN }, json };
        const { status, text } = await askHttp1(served, path, ask);
        // Of form, not of meaning: an id that is there, another fencing token, a scope that permits nothing.
        const isTaken = status < 300 || status === 409 || status === 412 || text.includes('permits no operation');
        // Unknown fields are ignored, so the schema is not closed for requests.
        expect({ json, text, isTaken }).toMatchObject({ isTaken: problemsOf(schema, json, 'open') === '' });
        seen[isTaken ? 'taken' : 'refused']++;
      }),
      { numRuns: 150 },
    );
    expect(seen.taken).toBeGreaterThan(5);
    expect(seen.refused).toBeGreaterThan(5);
  });
});
