/** The shop of examples/inventory as a visitor runs it: a day compared with Postgres, and its page in a browser. */
import { fileURLToPath } from 'node:url';
import { startBrowser } from '@millrace/testkit/browser';
import { processHarness } from '@millrace/testkit/process-harness';
import pg from 'pg';
import { expect, test, vi } from 'vitest';

// Servers, a browser and a Redis start here, beside other tests.
vi.setConfig({ testTimeout: 180_000 });

const EXAMPLE = fileURLToPath(new URL('../../examples/inventory/run.ts', import.meta.url));

test('a day in the shop is in the streams as Postgres says it happened, and the consumers did their part', async () => {
  const shop = processHarness({ args: [EXAMPLE, '--once'] });
  shop.start();
  const { code } = await shop.exited;
  const said = shop.lines.map(({ text }) => text);
  expect(code, shop.transcript()).toBe(0);
  const streams = said.filter((line) => /^[a-z_]+ +\d+ records/.test(line));
  expect(streams.map((line) => line.split(' ')[0]).sort()).toEqual([
    'category_updates',
    'inventory_updates',
    'order_processing',
    'payment_notifications',
    'price_alerts',
    'user_auth_events',
    'user_profile_updates',
  ]);
  for (const line of streams) expect(line).toMatch(/[1-9]\d* records {2}as Postgres says$/);
  expect(said).toContain('  alert    Avocados are now $4.99!');
});

test('the storefront shows each change of a product in the browser as it commits', async () => {
  const shop = processHarness({ args: [EXAMPLE, '--port', '0'] });
  shop.start();
  const url = (await shop.waitForLine(/^Storefront: /, { timeoutMs: 90_000 })).split(' ')[1]!;
  const [, databaseUrl] = /psql '([^']+)'/.exec(await shop.waitForLine(/psql '/))!;
  const client = new pg.Client({ connectionString: databaseUrl! });
  await client.connect();
  const browser = await startBrowser();
  try {
    const page = await browser.newPage();
    const errors: string[] = [];
    page.on('pageerror', (error) => errors.push(error.message));
    await page.goto(url);
    const product = (name: string) => page.locator('#products li', { has: page.getByRole('heading', { name }) });
    const shows = (name: string, text: string) => product(name).getByText(text).waitFor({ timeout: 30_000 });
    await page.getByText('live', { exact: true }).waitFor({ timeout: 30_000 });
    await shows('Avocados', '120 in stock');

    await client.query(`UPDATE products SET price = 4.49, updated_at = now() WHERE name = 'Avocados'`);
    await shows('Avocados', '$4.49');
    await page.getByText('Avocados are now $4.49!').waitFor();
    await client.query(`UPDATE products SET stock = 0, updated_at = now() WHERE name = 'Walnuts'`);
    await shows('Walnuts', 'Out of stock');
    await client.query(
      `INSERT INTO products (name, category, price, cost, stock) VALUES ('Figs', 'fruit', 6.20, 4, 12)`,
    );
    await shows('Figs', '12 in stock');
    await client.query(`DELETE FROM products WHERE name = 'Figs'`);
    await product('Figs').waitFor({ state: 'detached', timeout: 30_000 });
    expect(errors).toEqual([]);
    // The consumer of price_alerts hears of it, too.
    await shop.waitForLine(/alert {4}Avocados are now \$4\.49!/);
  } finally {
    await browser.close();
    await client.end();
    const { code } = await shop.kill('SIGTERM');
    expect(code).toBe(0);
  }
});
