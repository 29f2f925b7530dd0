/** What the address of a database gives away: poolers and load balancers, which replication cannot go through. Pure. */
import { isIP } from 'node:net';
import type { Finding } from '@millrace/engine/health/finding';

export interface Endpoint {
  readonly hostname: string;
  readonly port: number;
  readonly username: string;
}

/** The direct address behind a pooler of a hosting service, as far as its name says it; null: it is no such pooler. */
export function directEndpoint({ hostname, username }: Endpoint): { readonly hint: string } | null {
  // Neon: ep-cool-name-123-pooler.eu-central-1.aws.neon.tech
  if (/-pooler\.[^/]*\bneon\.tech$/i.test(hostname)) {
    return { hint: `hostname: ${hostname.replace('-pooler.', '.')}` };
  }
  // Supabase: aws-0-eu-central-1.pooler.supabase.com, with the project in the user name.
  if (/\.pooler\.supabase\.com$/i.test(hostname)) {
    const [user, project] = username.split('.');
    return {
      hint:
        project === undefined
          ? 'hostname: db.PROJECT.supabase.co\nport: 5432'
          : `hostname: db.${project}.supabase.co\nport: 5432\nusername: ${user}`,
    };
  }
  return null;
}

export function endpointFindings(endpoint: Endpoint, addresses: readonly string[]): Finding[] {
  const findings: Finding[] = [];
  const direct = directEndpoint(endpoint);
  if (direct !== null) {
    findings.push({
      slug: 'endpoint_pooled',
      severity: 'error',
      text: `${endpoint.hostname} is a connection pooler, and replication does not go through one.`,
      fix: `# in the configuration, the direct address:\n${direct.hint}`,
    });
  }
  for (const family of [4, 6]) {
    const found = [...new Set(addresses.filter((address) => isIP(address) === family))];
    if (found.length < 2) continue;
    findings.push({
      slug: 'endpoint_several_addresses',
      severity: 'warning',
      text: `${endpoint.hostname} has ${found.length} addresses (${found.slice(0, 4).join(', ')}): each connection may reach another server, and the slot is on one.`,
      fix: '# in the configuration, the name of the one server that has the slot:\nhostname: PRIMARY',
    });
  }
  return findings;
}

export interface Backend {
  /** From the handshake, and what the server itself says, twice. */
  readonly announcedPid: number;
  readonly pids: readonly number[];
}

/** A server announces its own process; a pooler announces a number of its own, or changes servers between statements. */
export function poolerFindings({ announcedPid, pids }: Backend): Finding[] {
  if (new Set(pids).size < 2 && pids[0] === announcedPid) return [];
  return [
    {
      slug: 'endpoint_pooled',
      severity: 'error',
      text: 'A connection pooler or proxy stands between here and Postgres: the session is not with the server process that was announced.',
      fix: '# in the configuration, the direct address of the server (often port 5432 in place of 6432 or 6543):\nhostname: DIRECT\nport: 5432',
    },
  ];
}
