import { expect, test } from 'vitest';
import { directEndpoint, endpointFindings, poolerFindings } from './endpoint-findings.ts';

const at = (hostname: string, username = 'postgres', port = 5432) => ({ hostname, username, port });

test('the direct address behind the poolers of Neon and Supabase is known from their names', () => {
  expect(directEndpoint(at('ep-cool-name-123-pooler.eu-central-1.aws.neon.tech'))!.hint).toBe(
    'hostname: ep-cool-name-123.eu-central-1.aws.neon.tech',
  );
  expect(directEndpoint(at('aws-0-eu-central-1.pooler.supabase.com', 'postgres.abcdef', 6543))!.hint).toBe(
    'hostname: db.abcdef.supabase.co\nport: 5432\nusername: postgres',
  );
  for (const direct of ['ep-cool-name-123.eu-central-1.aws.neon.tech', 'db.abcdef.supabase.co', 'pooler.example.com']) {
    expect(directEndpoint(at(direct))).toBeNull();
  }
});

test('a name with several addresses of one kind is a warning, one address of each kind is not', () => {
  expect(endpointFindings(at('db.example.com'), ['127.0.0.1', '::1'])).toEqual([]);
  expect(endpointFindings(at('db.example.com'), ['10.0.0.1', '10.0.0.1'])).toEqual([]);
  expect(endpointFindings(at('db.example.com'), ['10.0.0.1', '10.0.0.2', '::1'])).toMatchObject([
    { slug: 'endpoint_several_addresses', severity: 'warning', text: expect.stringContaining('10.0.0.2') },
  ]);
});

test('a process that is not the announced one, or that changes, means a pooler', () => {
  expect(poolerFindings({ announcedPid: 17, pids: [17, 17] })).toEqual([]);
  expect(poolerFindings({ announcedPid: -481, pids: [17, 17] })).toMatchObject([{ slug: 'endpoint_pooled' }]);
  expect(poolerFindings({ announcedPid: 17, pids: [17, 18] })).toMatchObject([{ slug: 'endpoint_pooled' }]);
});
