// What the browser keeps for this page. Private windows may refuse; then nothing is kept.

export function remembered(key: string): string {
  try {
    return localStorage.getItem("linli." + key) ?? "";
  } catch {
    return "";
  }
}

export function remember(key: string, value: string): void {
  try {
    localStorage.setItem("linli." + key, value);
  } catch {
    // Not kept: the page asks again next time.
  }
}
