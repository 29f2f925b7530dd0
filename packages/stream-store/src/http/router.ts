import { S2Error } from '../s2-error.ts';
import { issueAccessToken, listAccessTokens, revokeAccessToken } from './access-tokens.ts';
import { append } from './append.ts';
import { createBasin, deleteBasin, ensureBasin, getBasinConfig, listBasins, reconfigureBasin } from './basins.ts';
import type { Call } from './context.ts';
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
          if (method === 'GET') return listStreams(call);
          if (method === 'POST') return createStream(call);
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
          if (method === 'GET') return checkTail(call, segments[1]!);
          throw new NoSuchRoute(405);
      }
      break;
    case 'basins':
      if (segments.length === 1) {
        if (method === 'GET') return listBasins(call);
        if (method === 'POST') return createBasin(call);
        throw new NoSuchRoute(405);
      }
      if (segments.length === 2) return routeBasin(call, method, segments[1]!);
      break;
    case 'access-tokens':
      if (segments.length === 1) {
        if (method === 'GET') return listAccessTokens(call);
        if (method === 'POST') return issueAccessToken(call);
        throw new NoSuchRoute(405);
      }
      if (segments.length === 2) {
        if (method === 'DELETE') return revokeAccessToken(call, segments[1]!);
        throw new NoSuchRoute(405);
      }
      break;
    case 'locations':
    case 'metrics':
      throw new S2Error('not_implemented', `/v1/${segments[0]} is not implemented.`);
  }
  throw new NoSuchRoute(404);
}

function routeStream(call: Call, method: string, segment: string): Outcome {
  switch (method) {
    case 'GET':
      return getStreamConfig(call, segment);
    case 'PUT':
      return ensureStream(call, segment);
    case 'PATCH':
      return reconfigureStream(call, segment);
    case 'DELETE':
      return deleteStream(call, segment);
    default:
      throw new NoSuchRoute(405);
  }
}

function routeBasin(call: Call, method: string, segment: string): Outcome {
  switch (method) {
    case 'GET':
      return getBasinConfig(call, segment);
    case 'PUT':
      return ensureBasin(call, segment);
    case 'PATCH':
      return reconfigureBasin(call, segment);
    case 'DELETE':
      return deleteBasin(call, segment);
    default:
      throw new NoSuchRoute(405);
  }
}
