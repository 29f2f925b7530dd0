/**
 * Functions of a sequin.yaml are written in Elixir; here they are TypeScript or JavaScript. Told apart by what no
 * JavaScript has: `def name(...) do`, or a last line `end` with `do` before it.
 */
export function looksLikeElixir(code: string): boolean {
  const text = code.replace(/#.*$/gm, '');
  return /^\s*defp?\s+\w+\s*\([^)]*\)\s*(?:when\b.*)?(?:do\b|,\s*do:)/m.test(text);
}
