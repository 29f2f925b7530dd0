/** Stands here for a moment: stages do not import each other, so the port is ../last-values.ts. Import it from there. */
export type { LastValue, LastValues } from '../last-values.ts';
