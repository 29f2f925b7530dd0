/** "Avocados are now $4.99!", for whoever sends it: a mail, a push message, a line in a terminal. */
import { followStream, type Store } from '../follow-stream.ts';
import type { Product } from '../shop-message.ts';

export function sendPriceAlerts(store: Store, send: (text: string) => void, signal: AbortSignal): Promise<void> {
  return followStream<Product>(store, 'price_alerts', 'beginning', ({ record }) => send(alertOf(record)), signal);
}

export function alertOf({ name, price }: Pick<Product, 'name' | 'price'>): string {
  return `${name} are now $${price}!`;
}
