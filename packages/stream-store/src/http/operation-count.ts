import { ACCOUNT } from '../metrics/usage-meter.ts';
import type { Operation } from '../model.ts';
import type { Call } from './context.ts';
import { basinOfRequest } from './request-names.ts';

/** Operations that were answered, for the metrics API. What was refused does not count. */

/** An operation of the account. */
export function counted(call: Call, operation: Operation, outcome: Promise<void> | void): Promise<void> | void {
  return after(outcome, () => call.context.usage.of(ACCOUNT).operation(operation));
}

/** An operation of the basin that the request names in its header. */
export function countedInBasin(call: Call, operation: Operation, outcome: Promise<void> | void): Promise<void> | void {
  return after(outcome, () => call.context.usage.of(basinOfRequest(call.exchange)).operation(operation));
}

function after(outcome: Promise<void> | void, count: () => void): Promise<void> | void {
  if (outcome !== undefined) return outcome.then(count);
  count();
}
