/** Bodies of the configuration routes of the management API. */
import * as z from 'zod';
import { CONFIG_BYTES_MAX } from './config-text.ts';

const texts = z.record(z.string().max(4096), z.string());

const file = {
  /** The file, with its references as they are. */
  yaml: z.string().max(CONFIG_BYTES_MAX),
  /** What `${NAME}` stands for. */
  variables: texts.optional(),
  /** The texts of the files that it names, by the names that it has for them. */
  files: texts.optional(),
  /** Delete what the file does not have. */
  prune: z.boolean().optional(),
};

export const planBody = z.strictObject(file);
export const applyBody = z.strictObject({
  ...file,
  /** Of the plan that is to be applied; another one by now is refused. */
  fingerprint: z.string().optional(),
});

/** Of one resource: keys of its block in the file. What they mean is checked with the whole. */
export const blockBody = z.record(z.string(), z.unknown());

export type PlanBody = z.output<typeof planBody>;
export type ApplyBody = z.output<typeof applyBody>;
