/**
 * The places where a crash is of interest, told by what the disk was asked for: the operation and the file. Which entry
 * of the journal an append group holds is told by the operations of the world that were not answered.
 */
export const CRASH_POINTS: readonly (readonly [string, RegExp])[] = [
  ['journal: first segment', /(create|write|truncate|datasync) .*segment\.tmp$/],
  ['append: write', /^write .*\/main\/\d{10}\.log$/],
  ['append: sync', /^datasync .*\/main\/\d{10}\.log$/],
  ['log append: write', /^write .*\/log\/\d{10}\.log$/],
  ['log append: sync', /^datasync .*\/log\/\d{10}\.log$/],
  ['roll: seal', /^truncate .*\/main\/\d{10}\.log$/],
  ['roll: make the next segment', /^(create|write|truncate|datasync) .*\/main\/segment\.tmp$/],
  ['roll: publish the next segment', /^rename .*\/main\/\d{10}\.log$/],
  ['log roll: publish the next segment', /^rename .*\/log\/\d{10}\.log$/],
  ['index: write', /^(create|write|datasync) .*\.idx\.tmp$/],
  ['index: publish', /^rename .*\.idx$/],
  ['checkpoint: write', /^(create|write|datasync) .*\/checkpoint[^/]*\.tmp$/],
  ['checkpoint: publish', /^rename .*\/checkpoint[^/]*$/],
  ['log trim: delete an index', /^unlink .*\/log\/\d{10}\.idx$/],
  ['log trim: delete a segment', /^unlink .*\/log\/\d{10}\.log$/],
  ['compaction: write a pack', /^(create|write|datasync) .*\/p\d{10}\.log\.tmp$/],
  ['compaction: publish a pack', /^rename .*\/p\d{10}\.log$/],
  ['compaction: publish the index of a pack', /^rename .*\/p\d{10}\.idx$/],
  ['compaction: write the manifest', /^(create|write|datasync) .*\/manifest\.tmp$/],
  ['compaction: commit', /^rename .*\/manifest$/],
  ['compaction: delete a segment', /^unlink .*\/main\/\d{10}\.log$/],
  ['compaction: delete an index', /^unlink .*\/main\/\d{10}\.idx$/],
  ['compaction: delete a pack', /^unlink .*\/p\d{10}\.log$/],
  ['compaction: delete an old checkpoint', /^unlink .*\/checkpoint-[\d-]+$/],
  ['directory: sync', /^syncDir /],
];

/** Kinds of entries that a crash between writing and syncing has to meet. */
export const INTERRUPTED = [
  'append',
  'append with trim',
  'append log',
  'trim log',
  'create basin',
  'ensure basin',
  'reconfigure basin',
  'create stream',
  'reconfigure stream',
  'delete stream',
  'purge',
  'issue token',
  'revoke token',
  'state put',
] as const;
