/**
 * Resources one by one: create, change, delete, as Sequin's API does. Each is an edit of what is applied, through the
 * same plan and apply as a file.
 */
import type { RawBlock, Section } from '@millrace/api/applied/config-source';
import { withSecretsOf } from '@millrace/api/applied/secrets';
import type { ConfigControl } from '../config/config-control.ts';
import { applied } from './config-routes.ts';
import { ManagementError } from './management-error.ts';

/** Fields of answers that say how a resource is, not what it is to be. */
const SHOWN_ONLY: ReadonlySet<string> = new Set([
  'id',
  'state',
  'lag',
  'health',
  'messages_delivered',
  'active_backfills',
  'inserted_at',
  'updated_at',
]);

export async function createResource(config: ConfigControl, section: Section, body: RawBlock): Promise<string> {
  const block = wanted(body);
  const { name } = block;
  if (typeof name !== 'string' || name === '') {
    throw new ManagementError(422, 'Validation failed.', { name: ['is required'] });
  }
  if (config.block(section, name) !== null) {
    throw new ManagementError(422, 'Validation failed.', { name: ['has already been taken'] });
  }
  await applied(config, { kind: 'edit', section, name, change: () => block });
  return name;
}

/** The keys that are given take the place of those there are; null takes one away. */
export async function updateResource(
  config: ConfigControl,
  section: Section,
  name: string,
  body: RawBlock,
): Promise<string> {
  const before = blockOf(config, section, name);
  const merged: Record<string, unknown> = { ...before, ...wanted(body) };
  for (const [key, value] of Object.entries(merged)) if (value === null) delete merged[key];
  const block = withSecretsOf(section, merged, before);
  if (block.name !== before.name) {
    throw new ManagementError(422, 'Validation failed.', {
      name: ['cannot be changed: what is known of it is kept under its name; make another one'],
    });
  }
  await applied(config, { kind: 'edit', section, name, change: () => block });
  return name;
}

export async function deleteResource(config: ConfigControl, section: Section, name: string): Promise<void> {
  blockOf(config, section, name);
  await applied(config, { kind: 'edit', section, name, change: () => null });
}

function blockOf(config: ConfigControl, section: Section, name: string): RawBlock {
  const block = config.block(section, name);
  if (block === null) throw new ManagementError(404, `Not found: ${section} has no "${name}" any more.`);
  return block;
}

function wanted(body: RawBlock): RawBlock {
  return Object.fromEntries(Object.entries(body).filter(([key]) => !SHOWN_ONLY.has(key)));
}
