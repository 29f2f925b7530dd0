import { startFunctionPool } from '@millrace/engine/transform/function-pool';
import type { FunctionDefinition } from '@millrace/engine/transform/function-source';
import { type Trial, tryFunction } from '@millrace/server/function-trial';
import { expect, test } from 'vitest';
import { parse } from 'yaml';
import { markdownFile } from './markdown.ts';

/** What a trial shows, as the page has it. */
function shown({ outcome, route, output }: Trial): unknown {
  if (outcome === 'passed' || outcome === 'filtered') return outcome === 'passed';
  if (outcome === 'routed') return route;
  const bodies = (output ?? []).map(({ body }) => body);
  return bodies.length === 1 ? bodies[0] : bodies;
}

test('every function of docs/functions.md does what the page says', async () => {
  const { blocks } = markdownFile('docs/functions.md');
  const [message, ...rest] = blocks.filter(({ info }) => info === 'json' || info === 'yaml');
  const pool = startFunctionPool({ threads: 1 });
  let count = 0;
  try {
    for (let i = 0; i < rest.length; i += 2) {
      const [example, result] = [rest[i]!, rest[i + 1]!];
      expect([example.info, result.info]).toEqual(['yaml', 'json']);
      for (const definition of parse(example.text).functions as FunctionDefinition[]) {
        const signal = AbortSignal.timeout(30_000);
        const [trial] = await tryFunction({ pool, definition, messages: [message!.text], signal });
        expect(trial?.error, definition.name).toBeUndefined();
        expect(shown(trial!), definition.name).toEqual(JSON.parse(result.text));
        count++;
      }
    }
  } finally {
    await pool.close();
  }
  expect(count).toBeGreaterThan(7);
}, 60_000);
