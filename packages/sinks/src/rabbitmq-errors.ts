/**
 * What an error of RabbitMQ, of the network or of the client library means: which of our codes it is, and what to do
 * next. The only place that knows the library's errors: names of the protocol, and those of sockets.
 */
import { MillraceError, madeName } from '@millrace/core/error';

/** Of the destination block. */
export interface RabbitmqPlace {
  readonly host: string;
  readonly port: number;
  readonly virtual_host: string;
  readonly exchange?: string | undefined;
}

/** The broker names its limit here and nowhere else. */
const SIZE_REFUSED = /message size (\d+) is larger than .*?size (\d+)/;

/** What a body had and what the broker takes, where it closed a channel over that. */
export function refusedSize(error: unknown): { readonly bytes: number; readonly bytesMax: number } | null {
  const [, bytes, bytesMax] = (error instanceof Error && SIZE_REFUSED.exec(error.message)) || [];
  return bytesMax === undefined ? null : { bytes: Number(bytes), bytesMax: Number(bytesMax) };
}

export function tooLarge(place: RabbitmqPlace, bytes: number, bytesMax: number): MillraceError {
  return new MillraceError('sink_record_too_large', {
    detail: `It has ${bytes} bytes; ${where(place)} takes ${bytesMax}.`,
    hint: 'Raise max_message_size of the broker, leave columns out, or set the oversize policy of the sink.',
  });
}

export function where({ host, port }: RabbitmqPlace): string {
  return `RabbitMQ at ${host}:${port}`;
}

/** `key`: the routing key, marked where a function made it. */
export function unroutable(place: RabbitmqPlace, exchange: string, key: string): MillraceError {
  const marked = nameOf(place, exchange);
  const name = exchange === '' ? 'the default exchange' : `exchange "${marked}"`;
  const hint =
    exchange === ''
      ? `Make the queue: rabbitmqadmin declare queue name="${key}" durable=true`
      : `Bind one: rabbitmqadmin declare binding source="${marked}" destination=QUEUE routing_key="${key}"`;
  return new MillraceError('sink_refused', {
    detail: `No queue takes routing key "${key}" of ${name} at ${where(place)}.`,
    hint: `${hint}. To have RabbitMQ drop such messages, set mandatory: false.`,
  });
}

function nameOf({ exchange: configured }: RabbitmqPlace, exchange: string): string {
  return exchange === (configured ?? '') ? exchange : madeName(exchange);
}

export function blocked(place: RabbitmqPlace, reason: string): MillraceError {
  return new MillraceError('sink_unavailable', {
    detail: `${where(place)} blocks publishers: ${reason}.`,
    hint: 'It is short of memory or disk. See: rabbitmq-diagnostics alarms. Consumers may be behind.',
  });
}

export function classify(error: unknown, place: RabbitmqPlace, exchange: string | null): MillraceError {
  if (error instanceof MillraceError) return error;
  const said = (error as { code?: unknown }).code;
  const code = typeof said === 'string' ? said : 'closed';
  const name = exchange === null ? null : nameOf(place, exchange);
  switch (code) {
    case 'ACCESS_REFUSED':
      return new MillraceError('sink_denied', {
        detail:
          exchange === null
            ? `${where(place)} refused user name or password.`
            : `${where(place)} refused to write to exchange "${name}".`,
        hint:
          exchange === null
            ? 'Check username and password. The user guest may connect from the same machine only.'
            : 'Give the user the right: rabbitmqctl set_permissions -p VHOST USER CONFIGURE WRITE READ.',
      });
    case 'NOT_ALLOWED':
      return new MillraceError('sink_refused', {
        detail: `${where(place)} has no virtual host "${place.virtual_host}", or the user may not use it.`,
        hint: 'See rabbitmqctl list_vhosts and list_permissions; add_vhost and set_permissions mend it.',
      });
    case 'NOT_FOUND':
      return new MillraceError('sink_refused', {
        detail: `${where(place)} has no exchange "${name ?? ''}" in virtual host "${place.virtual_host}".`,
        hint: `Make it: rabbitmqadmin --vhost="${place.virtual_host}" declare exchange name="${name ?? ''}" type=topic durable=true`,
      });
    case 'NACK':
      return new MillraceError('sink_unavailable', {
        detail: `${where(place)} could not keep a message.`,
        hint: 'A queue is full and refuses more (overflow: reject-publish), or has lost its leader.',
      });
    case 'PRECONDITION_FAILED': {
      const size = refusedSize(error);
      if (size !== null) return tooLarge(place, size.bytes, size.bytesMax);
      return new MillraceError('sink_refused', {
        detail: `${where(place)} refused a message.`,
        hint: 'The log of the broker says why; it may be a header that means something to RabbitMQ, as CC does.',
      });
    }
    // Of the client, which closes the channel as well.
    case 'CODEC':
    case 'ERR_OUT_OF_RANGE':
      return new MillraceError('sink_refused', {
        detail: 'Its routing key, message id and headers cannot be sent.',
        hint: 'Together they may have 8 KiB, and a number of a header 64 bits: change what the routing function returns.',
      });
    default:
      return new MillraceError('sink_unavailable', { detail: `${where(place)}: ${code}.`, hint: hintFor(code) });
  }
}

function hintFor(code: string): string | undefined {
  if (code === 'ECONNREFUSED') return 'Is it running, and are host and port right?';
  if (code === 'ENOTFOUND') return 'There is no host of this name.';
  return /CERT|SIGNATURE|ALTNAME/.test(code)
    ? 'Its certificate could not be verified: set ca to the certificate of its CA, and host to a name in the certificate.'
    : undefined;
}
