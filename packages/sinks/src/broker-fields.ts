/** What the destination blocks of brokers have in common: where the server is, and how its certificate is checked. */
import * as z from 'zod';

export const HOST = z.string().min(1).max(255).describe('Name or address of the server.');

export function portOr(usual: number) {
  return z.int().min(1).max(65_535).default(usual).describe(`Port of the server. Default ${usual}.`);
}

export const TLS = z
  .boolean()
  .default(false)
  .describe('Connect with TLS. The certificate of the server is verified, its name included. Default false.');

/** Text of PEM, not a path: a configuration can be applied from another machine. */
export const CA = z
  .string()
  .regex(/-----BEGIN CERTIFICATE-----/, 'must be certificates in PEM: -----BEGIN CERTIFICATE----- and so on')
  .optional()
  .describe('Certificates (PEM) to trust instead of those that the system trusts, for a server with its own CA.');

export const USERNAME = z.string().min(1).max(255).optional().describe('User name, where the server asks for one.');

export const PASSWORD = z
  .string()
  .min(1)
  .optional()
  .describe('Password, where the server asks for one.')
  .meta({ secret: true });

/** Of both kinds that write to Redis. */
export const REDIS_FIELDS = {
  host: HOST,
  port: portOr(6379),
  database: z.int().min(0).max(65_535).default(0).describe('Number of the database. Default 0.'),
  tls: TLS,
  ca: CA,
  username: USERNAME,
  password: PASSWORD,
};
