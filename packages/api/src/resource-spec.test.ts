import { MillraceError } from '@millrace/core/error';
import { Ajv2020 } from 'ajv/dist/2020.js';
import fc from 'fast-check';
import { describe, expect, test } from 'vitest';
import { parseResourceSpec, readResourceSpec, resourceSpecSchema } from './resource-spec.ts';

const WHOLE = `{
  "$schema": "./spec.schema.json",
  "basins": [
    {
      "name": "shop-streams",
      "config": {
        "default_stream_config": {
          "storage_class": "standard",
          "retention_policy": "7days",
          "timestamping": { "mode": "client-require", "uncapped": true },
          "delete_on_empty": { "min_age": "1h 30m" }
        },
        "stream_cipher": "aes-256-gcm",
        "create_stream_on_append": true,
        "create_stream_on_read": false
      },
      "streams": [{ "name": "orders", "config": { "retention_policy": "infinite" } }, { "name": "a/b c" }]
    },
    { "name": "other-basin" }
  ]
}`;

test('a file becomes what the HTTP API takes, with durations in seconds', () => {
  expect(parseResourceSpec(WHOLE, 'spec.json')).toEqual({
    basins: [
      {
        name: 'shop-streams',
        config: {
          default_stream_config: {
            storage_class: 'standard',
            retention_policy: { age: 604_800 },
            timestamping: { mode: 'client-require', uncapped: true },
            delete_on_empty: { min_age_secs: 5400 },
          },
          stream_cipher: 'aes-256-gcm',
          create_stream_on_append: true,
          create_stream_on_read: false,
        },
        streams: [
          { name: 'orders', config: { retention_policy: { infinite: {} } } },
          { name: 'a/b c', config: {} },
        ],
      },
      { name: 'other-basin', config: {}, streams: [] },
    ],
  });
});

test('the same file may be YAML, and an empty one asks for nothing', () => {
  const yaml = 'basins:\n  - name: shop-streams\n    streams:\n      - { name: orders }\n';
  expect(parseResourceSpec(yaml, 'spec.yaml').basins[0]!.streams).toEqual([{ name: 'orders', config: {} }]);
  expect(parseResourceSpec('', 'spec.yaml')).toEqual({ basins: [] });
});

describe('a mistake is refused with its line, its path and what is meant', () => {
  test.each<[string, string]>([
    ['{"basin": []}', 'spec.json:1: basin: unknown key (did you mean "basins"?)'],
    ['{"basins": [{"name": "x"}]}', 'spec.json:1: basins[0].name: must have 8 to 48 lower-case letters'],
    ['{"basins": [{}]}', 'spec.json:1: basins[0].name: is required'],
    [
      WHOLE.replace('"7days"', '"soon"'),
      'spec.json:9: basins[0].config.default_stream_config.retention_policy: must be a',
    ],
    [WHOLE.replace('"7days"', '"0s"'), 'at least 1s, or "infinite"'],
    [
      WHOLE.replace('"1h 30m"', '90'),
      'spec.json:11: basins[0].config.default_stream_config.delete_on_empty.min_age: must be',
    ],
    [WHOLE.replace('"standard"', '"slow"'), 'storage_class: must be one of standard, express'],
    [WHOLE.replace('"mode"', '"mod"'), 'timestamping.mod: unknown key (did you mean "mode"?)'],
    [WHOLE.replace('a/b c', 'orders'), 'spec.json:17: basins[0].streams[1].name: is the name of a stream above'],
    [WHOLE.replace('other-basin', 'shop-streams'), 'spec.json:19: basins[1].name: is the name of a basin above'],
    [WHOLE.replace('a/b c', '..'), 'must have 1 to 512 bytes'],
    ['{"basins": [', 'spec.json:1: '],
    ['[]', 'spec.json:1: must be an object'],
  ])('%#: %s', (text, problem) => {
    const error = problemOf(() => parseResourceSpec(text, 'spec.json'));
    expect(error.code).toBe('spec_invalid');
    expect(error.message).toContain(problem);
  });

  test('all mistakes of a file are told at once, in the order of its lines', () => {
    const text = WHOLE.replace('"standard"', '"slow"').replace('orders', '.');
    const lines = problemOf(() => parseResourceSpec(text, 'f'))
      .message.split('\n')
      .slice(1);
    expect(lines.map((line) => line.split(':')[1])).toEqual(['8', '17']);
  });

  test('a file that is not there has a code of its own', async () => {
    await expect(readResourceSpec('/nonexistent/spec.json')).rejects.toMatchObject({
      code: 'spec_unreadable',
      message: expect.stringContaining('/nonexistent/spec.json: there is no such file.'),
    });
  });
});

test('any text ends in a spec or in spec_invalid', () => {
  const pieces = fc.constantFrom(
    '{',
    '}',
    '[',
    ']',
    '"basins"',
    ':',
    ',',
    '"name"',
    '*a',
    '&a ',
    '<<: ',
    '\n',
    '- ',
    '!!x ',
  );
  fc.assert(
    fc.property(
      fc.oneof(
        fc.string(),
        fc.array(pieces).map((parts) => parts.join('')),
        fc.json(),
      ),
      (text) => {
        try {
          parseResourceSpec(text, 'x');
        } catch (error) {
          expect(error).toMatchObject({ code: 'spec_invalid' });
        }
      },
    ),
    { numRuns: 500 },
  );
});

test('the published schema takes what the parser takes and refuses what it refuses', () => {
  const valid = new Ajv2020({ strict: false }).compile(resourceSpecSchema() as object);
  expect(valid(JSON.parse(WHOLE))).toBe(true);
  for (const [from, to] of [
    ['"name": "orders"', '"nme": "orders"'],
    ['"standard"', '"slow"'],
    ['shop-streams', 'x'],
    ['"basins"', '"basin"'],
  ] as const) {
    expect(valid(JSON.parse(WHOLE.replace(from, to))), to).toBe(false);
  }
});

function problemOf(parse: () => unknown): MillraceError {
  try {
    parse();
  } catch (error) {
    expect(error).toBeInstanceOf(MillraceError);
    return error as MillraceError;
  }
  throw new Error('nothing was refused');
}
