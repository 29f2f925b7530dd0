/** Where a message goes: what the kind says of it, what the routing function returned over that, checked as a whole. */
import type { MessageFacts } from './push-sink.ts';
import type { SinkKind } from './sink-kind.ts';

/** The route, or a text that says what is wrong with it: names of keys, never a value (I11). */
export type Routed<Route> = { readonly route: Route } | string;

export function sinkRouter<Config, Route>(
  kind: SinkKind<Config, Route>,
  config: Config,
): (message: MessageFacts, returned: Readonly<Record<string, unknown>> | null) => Routed<Route> {
  return (message, returned) => {
    const configured = kind.route(config, message);
    const merged = returned === null ? configured : merge(kind, configured, returned);
    if (typeof merged === 'string') return merged;
    const route = kind.checkRoute(config, merged);
    return typeof route === 'string' ? route : { route };
  };
}

function merge<Config, Route>(
  kind: SinkKind<Config, Route>,
  configured: Partial<Route>,
  returned: Readonly<Record<string, unknown>>,
): Partial<Route> | string {
  if (kind.routing === null) return `A sink of type ${kind.type} takes no routing function.`;
  // A key without a value leaves what is configured; null is for the kind to take or to refuse.
  const given = Object.fromEntries(Object.entries(returned).filter(([, value]) => value !== undefined));
  const parsed = kind.routing.safeParse(given);
  if (parsed.success) return { ...configured, ...parsed.data };
  const problems = parsed.error.issues.map(({ code, path, message, ...issue }) => {
    const keys = code === 'unrecognized_keys' && 'keys' in issue ? (issue.keys as string[]) : [path.join('.')];
    return code === 'unrecognized_keys' ? `${keys.join(', ')} is no key of a route` : `${keys[0]} ${message}`;
  });
  return `The routing function's result is not valid: ${problems.slice(0, 5).join('; ')}.`;
}
