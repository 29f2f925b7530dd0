import type { Path } from './config-document.ts';
import { checkFunctions, checkSinkFunctions, type FunctionNames, functionNames } from './function-checks.ts';
import { nearest } from './nearest.ts';
import { type Block, block, given, list, meant, type Report } from './raw-block.ts';
import { checkConditions, checkDelivery, checkOlderRules, checkTables } from './rule-checks.ts';
import { ACTIONS } from './sink-schema.ts';

/**
 * What a schema of single values cannot say: keys that exclude each other, names that must be unique, references.
 * Works on the raw value and doubts every type, so that one run reports these next to the schema's own findings.
 */
export function checkConfig(root: unknown, lineOf: (path: Path) => number, report: Report, warn: Report): void {
  const databases = list(block(root)?.databases);
  const sinks = list(block(root)?.sinks);
  const endpoints = list(block(root)?.http_endpoints);
  checkUnique(endpoints, 'http_endpoints', lineOf, report);
  endpoints.forEach((endpoint, index) => {
    checkEndpoint(endpoint, ['http_endpoints', index], report);
  });
  checkFunctions(root, lineOf, report);
  const functions = functionNames(root);
  for (const [key, text] of WITHOUT_EFFECT) if (list(block(root)?.[key]).length > 0) warn([key], text);
  checkUnique(databases, 'databases', lineOf, report);
  checkUnique(sinks, 'sinks', lineOf, report);
  databases.forEach((database, index) => {
    checkDatabase(database, ['databases', index], report);
  });
  checkSlots(databases, lineOf, report);
  checkPublications(databases, sinks, report);
  const names = databases.map((database) => database.name).filter((name) => typeof name === 'string');
  sinks.forEach((sink, index) => {
    checkSink(sink, { databases: names, functions, endpoints }, ['sinks', index], report);
  });
}

function checkUnique(blocks: readonly Block[], key: string, lineOf: (path: Path) => number, report: Report): void {
  const first = new Map<unknown, number>();
  blocks.forEach(({ name }, index) => {
    if (typeof name !== 'string') return;
    const earlier = first.get(name);
    if (earlier === undefined) first.set(name, index);
    else
      report(
        [key, index, 'name'],
        `is already the name of ${key}[${earlier}] (line ${lineOf([key, earlier, 'name'])})`,
      );
  });
}

const WITHOUT_EFFECT: readonly [key: string, text: string][] = [
  ['users', 'has no effect: there are no users here; make an access token for each with millrace issue-access-token'],
  ['api_tokens', 'has no effect: make access tokens with millrace issue-access-token, or give --root-token-file'],
];

function checkEndpoint(endpoint: Block, path: Path, report: Report): void {
  if (isTrue(endpoint.local)) {
    report([...path, 'local'], "is for the tunnel of Sequin's CLI; give url, as http://localhost:3000/path");
  } else if (isTrue(endpoint['webhook.site'])) {
    report([...path, 'webhook.site'], 'is not made from here; open webhook.site and give the address it shows as url');
  } else if (!given(endpoint.url)) report(path, 'url is required');
  else if (given(endpoint.path)) report([...path, 'path'], 'is part of url here; write it at the end of url');
}

function isTrue(value: unknown): boolean {
  return value === true || value === 'true';
}

function checkDatabase(database: Block, path: Path, report: Report): void {
  if (given(database.url)) {
    for (const key of ['hostname', 'port', 'database', 'username', 'password']) {
      if (given(database[key])) report([...path, key], 'is part of url already; give one or the other');
    }
  } else {
    for (const key of ['hostname', 'database']) {
      if (!given(database[key])) report(path, `${key} is required (or give url)`);
    }
  }
  for (const key of ['slot', 'publication']) {
    const legacy = `${key}_name`;
    if (given(database[key]) && given(database[legacy])) {
      report([...path, legacy], `is the older form of ${key}.name; give one or the other`);
    } else if (!given(database[key]) && !given(database[legacy])) {
      report(path, `${key} is required: a block with name and create_if_not_exists`);
    }
  }
  const failover = block(database.slot)?.failover;
  if (given(database.primary) && (failover === true || failover === 'true')) {
    report([...path, 'slot', 'failover'], 'cannot stand next to primary: the slot of a standby is not copied anywhere');
  }
  const publication = block(database.publication);
  const sql = publication?.init_sql;
  const name = publication?.name;
  if (typeof sql === 'string' && typeof name === 'string' && !createsPublication(sql, name)) {
    report([...path, 'publication', 'init_sql'], 'must start with CREATE PUBLICATION and the name of this publication');
  }
}

function createsPublication(sql: string, name: string): boolean {
  const found = /^\s*create\s+publication\s+(?:"((?:[^"]|"")+)"|([^\s;"]+))/i.exec(sql);
  if (found === null) return false;
  // Unquoted names fold to lower case, as in Postgres.
  return found[1] === undefined ? found[2]!.toLowerCase() === name : found[1].replaceAll('""', '"') === name;
}

/** A slot has one reader: two databases that share one would take changes from each other. */
function checkSlots(databases: readonly Block[], lineOf: (path: Path) => number, report: Report): void {
  const first = new Map<string, number>();
  const nameOf = (index: number) => {
    const line = lineOf(['databases', index]);
    const name = `"${String(databases[index]?.name)}"`;
    return line === 0 ? `${name}, which is applied now and stays without --prune` : `${name} (line ${line})`;
  };
  databases.forEach((database, index) => {
    const slot = block(database.slot)?.name ?? database.slot_name;
    if (typeof slot !== 'string') return;
    const server = given(database.url) ? serverOf(database.url) : [database.hostname, database.port ?? 5432];
    const key = JSON.stringify([server, slot]);
    const earlier = first.get(key);
    if (earlier === undefined) first.set(key, index);
    else {
      report(['databases', index], `reads the same slot of the same server as the database ${nameOf(earlier)}`);
    }
  });
}

/** Column lists are made for the sinks of one database; another one that reads the publication would lack columns. */
function checkPublications(databases: readonly Block[], sinks: readonly Block[], report: Report): void {
  const keyOf = (database: Block) => {
    const url = typeof database.url === 'string' ? URL.parse(database.url) : null;
    const name = given(database.url) ? url?.pathname.slice(1) : database.database;
    const server = given(database.url) ? serverOf(database.url) : [database.hostname, database.port ?? 5432];
    return JSON.stringify([server, name, block(database.publication)?.name ?? database.publication_name]);
  };
  sinks.forEach((sink, index) => {
    if (!isTrue(sink.push_down)) return;
    const own = databases.find(({ name }) => name === sink.database);
    const other = databases.find((one) => own !== undefined && one !== own && keyOf(one) === keyOf(own));
    if (other === undefined) return;
    report(['sinks', index, 'push_down'], `cannot be: database "${other.name}" reads the same publication`);
  });
}

function serverOf(value: unknown): unknown {
  const url = typeof value === 'string' ? URL.parse(value) : null;
  return url === null ? value : [url.hostname, url.port === '' ? 5432 : Number(url.port)];
}

interface Names {
  readonly databases: readonly string[];
  readonly functions: FunctionNames;
  readonly endpoints: readonly Block[];
}

function checkSink(sink: Block, { databases, functions, endpoints }: Names, path: Path, report: Report): void {
  const { database } = sink;
  checkSinkFunctions(sink, functions, path, report);
  checkTables(sink, path, report);
  checkConditions(sink, path, report);
  checkOlderRules(sink, path, report);
  checkDelivery(sink, path, report);
  const endpoint = block(sink.destination)?.http_endpoint;
  const known = endpoints.map(({ name }) => name).filter((name) => typeof name === 'string');
  if (typeof endpoint === 'string' && !known.includes(endpoint)) {
    const near = meant(nearest(endpoint, known));
    report([...path, 'destination', 'http_endpoint'], `is not the name of one of http_endpoints${near}`);
  }
  if (typeof database === 'string' && !databases.includes(database)) {
    report([...path, 'database'], `is not the name of one of the databases${meant(nearest(database, databases))}`);
  }
  // Such a sink can be for what is not a change of a row.
  if (Array.isArray(sink.actions) && sink.actions.length === 0 && !takesOther(sink)) {
    report([...path, 'actions'], `must name at least one of: ${ACTIONS.join(', ')}`);
  }
  const source = block(sink.source);
  for (const noun of ['schemas', 'tables']) {
    if (given(source?.[`include_${noun}`]) && given(source?.[`exclude_${noun}`])) {
      report([...path, 'source', `exclude_${noun}`], `cannot stand next to include_${noun}`);
    }
  }
  if (Array.isArray(sink.initial_backfill)) checkInitial(sink.initial_backfill, [...path, 'initial_backfill'], report);
  for (const key of ['table', 'schema']) {
    if (given(sink[key]) && given(sink.source)) {
      report([...path, key], `is the older form of source.include_${key}s; give one or the other`);
    }
  }
  if (given(sink.table) && given(sink.schema)) {
    report([...path, 'schema'], 'cannot stand next to table; write the table as schema.table');
  }
}

function takesOther({ logical_messages: messages, schema_changes: schemas }: Block): boolean {
  return messages === true || messages === 'true' || Array.isArray(messages) || schemas === true || schemas === 'true';
}

/** A partial backfill says where it starts, a full one does not; no table stands twice. */
function checkInitial(entries: readonly unknown[], path: Path, report: Report): void {
  const seen = new Map<unknown, number>();
  list(entries).forEach((entry, index) => {
    const earlier = seen.get(entry.table);
    if (earlier !== undefined) report([...path, index, 'table'], `stands in initial_backfill[${earlier}] already`);
    else seen.set(entry.table, index);
    const partial = entry.type === 'partial';
    for (const key of ['sort_column', 'start_position']) {
      if (partial && !given(entry[key])) report([...path, index], `${key} is required for type partial`);
      else if (!partial && given(entry[key])) report([...path, index, key], 'is taken with type partial only');
    }
  });
}
