import { issueAccessToken, listAccessTokens, revokeAccessToken } from './access-tokens.ts';
import { append } from './append.ts';
import { createBasin, deleteBasin, ensureBasin, getBasinConfig, listBasins, reconfigureBasin } from './basins.ts';
import type { Call } from './context.ts';
import { getDefaultLocation, listLocations, setDefaultLocation } from './locations.ts';
import { accountMetrics, basinMetrics, streamMetrics } from './metrics.ts';
import { counted, countedInBasin } from './operation-count.ts';
import { checkTail, read } from './read.ts';
import {
  createStream,
  deleteStream,
  ensureStream,
  getStreamConfig,
  listStreams,
  reconfigureStream,
} from './streams.ts';

type Outcome = Promise<void> | void;

/** A path the API does not have, or a method a path does not have: there is no S2 code for either. */
export class NoSuchRoute extends Error {
  override readonly name = 'NoSuchRoute';
  readonly status: 404 | 405;

  constructor(status: 404 | 405) {
    super(status === 404 ? 'There is no such path.' : 'The path does not take this method.');
    this.status = status;
  }
}

/** `path` is what follows /v1/. Splits and switches: this runs for every append, so no regular expressions. */
export function route(call: Call, path: string): Outcome {
  const segments = path.split('/');
  const method = call.exchange.method;
  switch (segments[0]) {
    case 'streams':
      switch (segments.length) {
        case 1:
          if (method === 'GET') return countedInBasin(call, 'list-streams', listStreams(call));
          if (method === 'POST') return countedInBasin(call, 'create-stream', createStream(call));
          throw new NoSuchRoute(405);
        case 2:
          return routeStream(call, method, segments[1]!);
        case 3:
          if (segments[2] !== 'records') break;
          if (method === 'POST') return append(call, segments[1]!);
          if (method === 'GET') return read(call, segments[1]!);
          throw new NoSuchRoute(405);
        case 4:
          if (segments[2] !== 'records' || segments[3] !== 'tail') break;
          if (method === 'GET') return countedInBasin(call, 'check-tail', checkTail(call, segments[1]!));
          throw new NoSuchRoute(405);
      }
      break;
    case 'basins':
      if (segments.length === 1) {
        if (method === 'GET') return counted(call, 'list-basins', listBasins(call));
        if (method === 'POST') return counted(call, 'create-basin', createBasin(call));
        throw new NoSuchRoute(405);
      }
      if (segments.length === 2) return routeBasin(call, method, segments[1]!);
      break;
    case 'access-tokens':
      if (segments.length === 1) {
        if (method === 'GET') return counted(call, 'list-access-tokens', listAccessTokens(call));
        if (method === 'POST') return counted(call, 'issue-access-token', issueAccessToken(call));
        throw new NoSuchRoute(405);
      }
      if (segments.length === 2) {
        if (method === 'DELETE') return counted(call, 'revoke-access-token', revokeAccessToken(call, segments[1]!));
        throw new NoSuchRoute(405);
      }
      break;
    case 'locations':
      if (segments.length === 1) {
        if (method === 'GET') return counted(call, 'list-locations', listLocations(call));
        throw new NoSuchRoute(405);
      }
      if (segments.length !== 2 || segments[1] !== 'default') break;
      if (method === 'GET') return counted(call, 'get-default-location', getDefaultLocation(call));
      if (method === 'PUT') return counted(call, 'set-default-location', setDefaultLocation(call));
      throw new NoSuchRoute(405);
    case 'metrics':
      if (segments.length > 3) break;
      if (method === 'GET') return routeMetrics(call, segments);
      throw new NoSuchRoute(405);
  }
  throw new NoSuchRoute(404);
}

function routeMetrics(call: Call, segments: readonly string[]): Outcome {
  const [, basin, stream] = segments;
  if (basin === undefined) return counted(call, 'account-metrics', accountMetrics(call));
  if (stream === undefined) return counted(call, 'basin-metrics', basinMetrics(call, basin));
  return counted(call, 'stream-metrics', streamMetrics(call, basin, stream));
}

function routeStream(call: Call, method: string, segment: string): Outcome {
  switch (method) {
    case 'GET':
      return countedInBasin(call, 'get-stream-config', getStreamConfig(call, segment));
    case 'PUT':
      return countedInBasin(call, 'create-stream', ensureStream(call, segment));
    case 'PATCH':
      return countedInBasin(call, 'reconfigure-stream', reconfigureStream(call, segment));
    case 'DELETE':
      return countedInBasin(call, 'delete-stream', deleteStream(call, segment));
    default:
      throw new NoSuchRoute(405);
  }
}

function routeBasin(call: Call, method: string, segment: string): Outcome {
  switch (method) {
    case 'GET':
      return counted(call, 'get-basin-config', getBasinConfig(call, segment));
    case 'PUT':
      return counted(call, 'create-basin', ensureBasin(call, segment));
    case 'PATCH':
      return counted(call, 'reconfigure-basin', reconfigureBasin(call, segment));
    case 'DELETE':
      return counted(call, 'delete-basin', deleteBasin(call, segment));
    default:
      throw new NoSuchRoute(405);
  }
}
