/**
 * What an error of Kafka, of the network or of the client library means: which of our codes it is, whether the messages
 * may have been written all the same, and what to do next. The only place that knows the library's errors.
 */
import { type ErrorCode, MillraceError } from '@millrace/core/error';

/**
 * `again`: a later attempt may do. `new_producer`: the broker has lost track of this producer and wrote nothing; another
 * one starts over. `split`: fewer at a time may do. `arrived`: the broker has it already. `give_up`: it stays as it is.
 */
export type NextStep = 'again' | 'new_producer' | 'split' | 'arrived' | 'give_up';

export interface KafkaVerdict {
  readonly error: MillraceError;
  readonly next: NextStep;
  /** Whether what was sent may have been written. */
  readonly unsure: boolean;
  /** Of the records of a batch those that the broker will not take; empty: it does not say. */
  readonly badRecords: readonly number[];
}

/** What was asked of whom. */
export interface Asked {
  /** `broker.example.com:9092`; absent: whichever broker answers. */
  readonly address?: string | undefined;
  readonly topic?: string | undefined;
  readonly tls: boolean;
  /** Whether a user is configured. */
  readonly sasl: boolean;
}

type Meaning = readonly [code: ErrorCode, next: NextStep, unsure: boolean, hint?: string];

const AWAY: Meaning = ['sink_unavailable', 'again', false];
const AWAY_UNSURE: Meaning = ['sink_unavailable', 'again', true];
const STARTS_OVER: Meaning = ['sink_unavailable', 'new_producer', false];
const REFUSED: Meaning = ['sink_refused', 'give_up', false];
const TOO_LARGE: Meaning = [
  'sink_record_too_large',
  'split',
  false,
  'Raise max.message.bytes of the topic, or set max_message_bytes of the sink to it and choose an oversize policy.',
];
const GRANT_TOPIC =
  'Grant the user Write and Describe on the topic (and Create, where topics are made when first used).';
const GRANT_CLUSTER =
  'Grant the user IdempotentWrite on the cluster, or set idempotent: false (then a lost reply can repeat messages).';
const CHECK_USER = 'Check username, password and sasl_mechanism.';

/** By Kafka's name. What is not here is worth another attempt, and may have been written. */
const MEANINGS: Readonly<Record<string, Meaning>> = {
  DUPLICATE_SEQUENCE_NUMBER: ['sink_unavailable', 'arrived', false],
  CORRUPT_MESSAGE: AWAY,
  UNKNOWN_TOPIC_OR_PARTITION: [
    'sink_place_missing',
    'again',
    false,
    'Create the topic, or let the broker do so when it is first used (auto.create.topics.enable, and auto_create_topics of the sink).',
  ],
  UNKNOWN_TOPIC_ID: AWAY,
  LEADER_NOT_AVAILABLE: AWAY,
  NOT_LEADER_OR_FOLLOWER: AWAY,
  BROKER_NOT_AVAILABLE: AWAY,
  REPLICA_NOT_AVAILABLE: AWAY,
  NOT_ENOUGH_REPLICAS: AWAY,
  NOT_ENOUGH_REPLICAS_AFTER_APPEND: AWAY_UNSURE,
  REQUEST_TIMED_OUT: AWAY_UNSURE,
  COORDINATOR_LOAD_IN_PROGRESS: AWAY,
  COORDINATOR_NOT_AVAILABLE: AWAY,
  NOT_COORDINATOR: AWAY,
  FENCED_LEADER_EPOCH: AWAY,
  UNKNOWN_LEADER_EPOCH: AWAY,
  NEW_LEADER_ELECTED: AWAY,
  THROTTLING_QUOTA_EXCEEDED: AWAY,
  MESSAGE_TOO_LARGE: TOO_LARGE,
  RECORD_LIST_TOO_LARGE: TOO_LARGE,
  TOPIC_AUTHORIZATION_FAILED: ['sink_denied', 'give_up', false, GRANT_TOPIC],
  CLUSTER_AUTHORIZATION_FAILED: ['sink_denied', 'give_up', false, GRANT_CLUSTER],
  TRANSACTIONAL_ID_AUTHORIZATION_FAILED: ['sink_denied', 'give_up', false, GRANT_CLUSTER],
  SASL_AUTHENTICATION_FAILED: ['sink_denied', 'give_up', false, CHECK_USER],
  UNSUPPORTED_SASL_MECHANISM: [
    'sink_denied',
    'give_up',
    false,
    'The broker does not offer the sasl_mechanism: choose another.',
  ],
  ILLEGAL_SASL_STATE: ['sink_denied', 'give_up', false, CHECK_USER],
  SECURITY_DISABLED: REFUSED,
  OUT_OF_ORDER_SEQUENCE_NUMBER: STARTS_OVER,
  UNKNOWN_PRODUCER_ID: STARTS_OVER,
  INVALID_PRODUCER_EPOCH: STARTS_OVER,
  INVALID_PRODUCER_ID_MAPPING: STARTS_OVER,
  PRODUCER_FENCED: STARTS_OVER,
  INVALID_TOPIC_EXCEPTION: REFUSED,
  INVALID_REQUIRED_ACKS: REFUSED,
  INVALID_TIMESTAMP: REFUSED,
  INVALID_REQUEST: REFUSED,
  INVALID_RECORD: [
    'sink_refused',
    'give_up',
    false,
    'A compacted topic takes only messages with a key: set message_grouping, or have a routing function return message_key.',
  ],
  UNSUPPORTED_VERSION: ['sink_refused', 'give_up', false, 'Brokers from Apache Kafka 0.11 on are supported.'],
  UNSUPPORTED_FOR_MESSAGE_FORMAT: REFUSED,
  UNSUPPORTED_COMPRESSION_TYPE: [
    'sink_refused',
    'give_up',
    false,
    'The broker does not know the compression: choose another.',
  ],
  POLICY_VIOLATION: REFUSED,
};

const CERTIFICATE_ERROR =
  /^(CERT_|ERR_TLS_CERT|UNABLE_TO_|DEPTH_ZERO_SELF_SIGNED_CERT|SELF_SIGNED_CERT|HOSTNAME_MISMATCH)/;
/** The broker wants a certificate of ours, or does not take the one it got. */
const CLIENT_CERTIFICATE_ERROR =
  /^ERR_SSL_.*ALERT_(.*CERTIFICATE.*|UNKNOWN_CA|ACCESS_DENIED|DECRYPT_ERROR|HANDSHAKE_FAILURE)$/;

/** Errors of the library that are particular to it. */
const AUTHENTICATION = 'PLT_KFK_AUTHENTICATION';
const NETWORK = 'PLT_KFK_NETWORK';
const TIMEOUT = 'PLT_KFK_TIMEOUT';
const USER = 'PLT_KFK_USER';

interface Foreign {
  readonly code?: unknown;
  readonly apiId?: unknown;
  readonly cause?: unknown;
  readonly errors?: unknown;
  readonly response?: unknown;
}

export function verdictOf(error: unknown, asked: Asked): KafkaVerdict {
  if (error instanceof MillraceError) {
    return { error, next: error.retry === 'backoff' ? 'again' : 'give_up', unsure: true, badRecords: [] };
  }
  const all = chain(error);
  const badRecords = badRecordsIn(all);
  const protocol =
    all.find(({ apiId }) => typeof apiId === 'string' && MEANINGS[apiId] !== undefined) ??
    all.find(({ apiId }) => typeof apiId === 'string');
  if (protocol !== undefined) return ofProtocol(String(protocol.apiId), error, asked, badRecords);
  return ofConnection(all, error, asked);
}

/** For errors that come as a number in an answer that is otherwise good. */
export function verdictOfName(name: string, asked: Asked): KafkaVerdict {
  return ofProtocol(name, undefined, asked, []);
}

function ofProtocol(name: string, cause: unknown, asked: Asked, badRecords: readonly number[]): KafkaVerdict {
  const [code, next, unsure, hint] = MEANINGS[name] ?? AWAY_UNSURE;
  const error = new MillraceError(code, { detail: `${place(asked)} says ${name}.`, hint, cause });
  return { error, next, unsure, badRecords };
}

function ofConnection(all: readonly Foreign[], cause: unknown, asked: Asked): KafkaVerdict {
  const codes = all.flatMap(({ code }) => (typeof code === 'string' ? [code] : []));
  const system = codes.find((code) => !code.startsWith('PLT_KFK_'));
  const made = (code: ErrorCode, next: NextStep, said: string, hint?: string): KafkaVerdict => ({
    error: new MillraceError(code, { detail: `${place(asked)}: ${said}.`, hint, cause }),
    next,
    unsure: true,
    badRecords: [],
  });
  if (system !== undefined && CERTIFICATE_ERROR.test(system)) {
    return made(
      'sink_unverified',
      'give_up',
      system,
      'Set ca to the certificate of the authority that signed it, and name the broker as the certificate does.',
    );
  }
  if (system !== undefined && CLIENT_CERTIFICATE_ERROR.test(system)) {
    return made(
      'sink_denied',
      'give_up',
      system,
      'Set client_cert and client_key to a certificate that the broker takes.',
    );
  }
  // A connection that breaks while the user is checked is an authentication error to the library, with the break inside.
  const refused = all.findIndex(({ code }) => code === AUTHENTICATION);
  const broke = all.slice(refused + 1).some(({ code }) => code === NETWORK || code === TIMEOUT);
  if (refused !== -1 && !broke && system === undefined)
    return made('sink_denied', 'give_up', 'the user was refused', CHECK_USER);
  if (codes.includes(USER)) {
    return asked.tls
      ? made('sink_unavailable', 'again', 'the TLS handshake failed', 'Set tls: false if this port does not speak TLS.')
      : made('sink_refused', 'give_up', 'this port speaks TLS', 'Set tls: true.');
  }
  if (system !== undefined) return made('sink_unavailable', 'again', system);
  if (codes.includes(TIMEOUT)) return made('sink_unavailable', 'again', 'no answer');
  const hint = asked.sasl
    ? undefined
    : 'If it asks for a user, set username, password and sasl_mechanism; if it speaks TLS, set tls: true.';
  return made('sink_unavailable', 'again', 'the connection was closed', hint);
}

function place({ address, topic }: Asked): string {
  if (topic !== undefined) return `Kafka, for topic ${topic},`;
  return address === undefined ? 'Kafka' : `Kafka at ${address}`;
}

/** An error, its causes, and what it is made of. */
function chain(error: unknown, depth = 0): Foreign[] {
  if (typeof error !== 'object' || error === null || depth > 8) return [];
  const foreign = error as Foreign;
  const parts = Array.isArray(foreign.errors) ? foreign.errors : [];
  return [foreign, ...parts.flatMap((part) => chain(part, depth + 1)), ...chain(foreign.cause, depth + 1)];
}

interface ProduceAnswer {
  readonly responses?: readonly {
    readonly partitionResponses?: readonly { readonly recordErrors?: readonly { readonly batchIndex: number }[] }[];
  }[];
}

function badRecordsIn(all: readonly Foreign[]): number[] {
  const answer = all.find(({ response }) => typeof response === 'object' && response !== null)?.response as
    | ProduceAnswer
    | undefined;
  const [topic] = answer?.responses ?? [];
  const [partition] = topic?.partitionResponses ?? [];
  return partition?.recordErrors?.map(({ batchIndex }) => batchIndex) ?? [];
}
