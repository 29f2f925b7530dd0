/**
 * Stops the server when the process that started it is gone, even by SIGKILL. A shell waits for the end of a pipe
 * whose other end only that process holds: the kernel closes it whatever the process died of.
 */
import { spawn } from 'node:child_process';

// $1: pid of the postmaster, $2: its data directory. The pid is trusted only while postmaster.pid names it; an orphan's zombie may answer kill -0 for ever.
// Fast first; a frozen client of a walsender can hold that up, so immediate after ten seconds.
const SCRIPT = `
trap '' INT TERM HUP
cat >/dev/null
read -r pid <"$2/postmaster.pid" || exit 0
[ "$pid" = "$1" ] || exit 0
kill -INT "$1" 2>/dev/null || exit 0
for i in 1 2 3 4 5 6 7 8 9 10; do
  sleep 1
  [ -e "$2/postmaster.pid" ] || exit 0
done
kill -QUIT "$1" 2>/dev/null
`;

export function startWatchdog(postmaster: number, dataDir: string, ended: Promise<void>): void {
  const child = spawn('/bin/sh', ['-c', SCRIPT, 'millrace-postgres-watchdog', String(postmaster), dataDir], {
    cwd: '/',
    detached: true,
    stdio: ['pipe', 'ignore', 'ignore'],
  });
  // The pipe ends only with this process, never earlier by garbage collection: the child holds it, and `ended` the child.
  child.on('error', () => {});
  child.stdin.on('error', () => {});
  child.unref();
  (child.stdin as unknown as { unref(): void }).unref();
  void ended.then(() => child.kill('SIGKILL'));
}
