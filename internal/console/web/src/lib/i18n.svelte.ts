import zh from "../i18n/zh.json";
import en from "../i18n/en.json";
import { remember, remembered } from "./remember";
import type { Lang, Text } from "./types";

export type Key = keyof typeof zh;
const catalogues: Record<Lang, Record<Key, string>> = { zh, en };

// Chinese unless the browser asks for another language.
function initial(): Lang {
  const kept = remembered("lang");
  if (kept === "zh" || kept === "en") return kept;
  const wanted = navigator.language || "";
  return wanted === "" || wanted.toLowerCase().startsWith("zh") ? "zh" : "en";
}

class Language {
  lang = $state<Lang>(initial());

  switch(): void {
    this.lang = this.lang === "zh" ? "en" : "zh";
    remember("lang", this.lang);
  }
}

export const language = new Language();

// t returns the text of key with its placeholders filled in.
export function t(key: Key, args: Record<string, string | number> = {}): string {
  return catalogues[language.lang][key].replace(/\{(\w+)\}/g, (_, name: string) => String(args[name] ?? ""));
}

// known returns the text of a key that is made from what the gateway sent, or the raw word where we have none for it.
export function known(key: string, raw: string): string {
  return key in zh ? t(key as Key) : raw;
}

// say returns a text of the gateway in the page's language.
export function say(text: Text | undefined): string {
  if (!text) return "";
  return (language.lang === "en" ? text.en || text.zh : text.zh || text.en) || "";
}
