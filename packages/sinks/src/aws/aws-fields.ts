/** What the destination blocks of the three AWS kinds have in common: where, and by whose right. */
import * as z from 'zod';

export const AWS_FIELDS = {
  region: z
    .string()
    .regex(/^[a-z0-9-]{2,32}$/, 'must be a region such as us-east-1')
    .optional()
    .describe('Region. Default: as the address of the destination says.'),
  access_key_id: z.string().min(1).max(128).optional().describe('Access key of a user who may only send here.'),
  secret_access_key: z.string().min(1).max(256).optional().describe('Its secret.').meta({ secret: true }),
  use_task_role: z
    .boolean()
    .default(false)
    .describe(
      'Take credentials from where the process runs (ECS, EC2, EKS, environment, profile) instead of a key. Default false.',
    ),
  use_emulator: z.boolean().default(false).describe('Send to emulator_base_url instead of AWS. Default false.'),
  emulator_base_url: z
    .url({ protocol: /^https?$/ })
    .optional()
    .describe('Address of an emulator such as LocalStack or Moto.'),
};

export interface AwsFields {
  readonly region?: string | undefined;
  readonly access_key_id?: string | undefined;
  readonly secret_access_key?: string | undefined;
  readonly use_task_role: boolean;
  readonly use_emulator: boolean;
  readonly emulator_base_url?: string | undefined;
}

/**
 * For `superRefine`: a key and its secret, unless the process has a role; an address, if there is an emulator; a region,
 * where the destination (`place`) does not name it.
 */
export function checkAwsFields(value: AwsFields, context: z.core.$RefinementCtx, place: string | undefined): void {
  const missing = (path: keyof AwsFields, message: string) =>
    context.addIssue({ code: 'custom', path: [path], message });
  if (!value.use_task_role) {
    const text = 'is required, unless use_task_role is true';
    if (value.access_key_id === undefined) missing('access_key_id', text);
    if (value.secret_access_key === undefined) missing('secret_access_key', text);
  }
  if (value.use_emulator && value.emulator_base_url === undefined) {
    missing('emulator_base_url', 'is required when use_emulator is true');
  }
  if (!value.use_emulator && value.region === undefined && regionOf(place) === undefined) {
    missing('region', 'is required where the address of the destination does not name one');
  }
}

/** The region that the ARN of a topic or stream names, or the address of a queue; undefined: it names none. */
export function regionOf(place: string | undefined): string | undefined {
  return /^(?:https?:\/\/(?:sqs|sqs-fips)\.|arn:[\w-]+:\w+:)([a-z0-9-]+)[.:]/.exec(place ?? '')?.[1];
}

/** A client signs for one region: what is wrong with sending to a place elsewhere, or null. */
export function regionProblem(config: AwsFields, configured: string | undefined, place: string): string | null {
  const [ours, its] = [config.region ?? regionOf(configured), regionOf(place)];
  return ours === undefined || its === undefined || ours === its
    ? null
    : `The destination is in region ${its}, and the sink sends to ${ours}: use a sink of its own for each region.`;
}
