/** What the change log keeps for slow sinks when nothing else is said. */
export const CHANGE_LOG_BYTES_MAX = 16 * 2 ** 30;
