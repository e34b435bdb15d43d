import { known, language, say, t } from "./i18n.svelte";
import { moment, now, type Live } from "./now.svelte";
import type { Alert, PointDef, Value } from "./types";

const OLD_MS = 15_000; // A value younger than this is never called old.

// duration says how long, in words a person would use; ms may be anything.
export function duration(ms: number): string {
  const s = Math.max(0, Math.floor(ms / 1000));
  if (s < 60) return t("time.seconds", { n: s });
  if (s < 3600) return t("time.minutes", { n: Math.floor(s / 60) });
  if (s < 86400) return t("time.hours", { n: Math.floor(s / 3600), m: Math.floor((s % 3600) / 60) });
  return t("time.days", { n: Math.floor(s / 86400) });
}

// countdown is minutes and seconds, for what ends soon.
export function countdown(ms: number): string {
  const s = Math.max(0, Math.ceil(ms / 1000));
  return `${Math.floor(s / 60)}:${String(s % 60).padStart(2, "0")}`;
}

// local returns a Date whose UTC parts are the site's local time.
function local(ms: number): Date {
  const zone = now.site?.timezone;
  let offset = now.utcOffset;
  if (zone) offset = offsetAt(zone, ms) ?? offset;
  return new Date(ms + offset * 1000);
}

const zones = new Map<string, Intl.DateTimeFormat | null>();

// offsetAt is the zone's distance from UTC in seconds, null where the browser does not know the zone.
function offsetAt(zone: string, ms: number): number | null {
  let f = zones.get(zone);
  if (f === undefined) {
    try {
      f = new Intl.DateTimeFormat("en-US", {
        timeZone: zone, hourCycle: "h23", year: "numeric", month: "numeric", day: "numeric", hour: "numeric", minute: "numeric", second: "numeric",
      });
    } catch {
      f = null;
    }
    zones.set(zone, f);
  }
  if (!f) return null;
  const p: Record<string, number> = {};
  for (const part of f.formatToParts(ms)) p[part.type] = Number(part.value);
  const asUTC = Date.UTC(p.year ?? 0, (p.month ?? 1) - 1, p.day ?? 1, (p.hour ?? 0) % 24, p.minute ?? 0, p.second ?? 0);
  return Math.round((asUTC - Math.floor(ms / 1000) * 1000) / 1000);
}

const two = (n: number) => String(n).padStart(2, "0");

// clock is the site's time of day.
export function clock(ms: number, seconds = false): string {
  const d = local(ms);
  return `${two(d.getUTCHours())}:${two(d.getUTCMinutes())}${seconds ? ":" + two(d.getUTCSeconds()) : ""}`;
}

// when is a moment for people: relative up to an hour, then the clock, then the day.
export function when(time: string | undefined): string {
  const ms = moment(time);
  if (ms === 0 || now.wall === 0) return "";
  const age = now.wall - ms;
  if (age < 10_000) return t("time.now");
  if (age < 3600_000) return t("time.ago", { time: duration(age) });
  const a = local(ms);
  const b = local(now.wall);
  const days = Math.floor(b.getTime() / 86400_000) - Math.floor(a.getTime() / 86400_000);
  if (days === 0) return clock(ms);
  if (days === 1) return t("time.yesterday", { clock: clock(ms) });
  const day = language.lang === "zh" ? `${a.getUTCMonth() + 1}月${a.getUTCDate()}日` : `${a.getUTCFullYear()}-${two(a.getUTCMonth() + 1)}-${two(a.getUTCDate())}`;
  return `${day} ${clock(ms)}`;
}

// exact is a moment to the second, with its day.
export function exact(time: string | undefined): string {
  const ms = moment(time);
  if (ms === 0) return "–";
  const d = local(ms);
  return `${two(d.getUTCMonth() + 1)}-${two(d.getUTCDate())} ${clock(ms, true)}`;
}

export function place(a: Alert): string {
  return say(a.place) || t("alert.site");
}

// what is an alert's title without the place in it, which stands before it already: "2号楼3层烟感报警" at "2号楼 · 3层"
// is "烟感报警", "Smoke alarm at Building 2, Floor 3" is "Smoke alarm".
export function what(a: Alert): string {
  const title = say(a.title);
  const at = say(a.place);
  if (!at) return title;
  const joined = at.split(" · ").join("");
  let rest = title;
  if (title.startsWith(joined)) rest = title.slice(joined.length);
  const tail = / (at|in|on) (.+)$/.exec(title);
  if (tail && tail[2] === at.split(" · ").join(", ")) rest = title.slice(0, tail.index);
  return rest.trim().length > 1 ? rest.trim() : title;
}

// Shown is a value as it stands on the page.
export interface Shown {
  text: string;
  unit: string;
  trouble: string; // why there is no value to trust, in words; empty for a good one
  note: string; // the last value, the age, the doubt
  abnormal: boolean; // a bool point in the state its class calls abnormal
}

// valueText writes a value without its unit.
export function valueText(def: PointDef, v: Value | undefined): string {
  if (v === null || v === undefined) return "";
  if (typeof v === "boolean") return v ? t("value.yes") : t("value.no");
  if (def.kind === "enum") {
    const e = def.enum?.find((e) => e.code === v);
    return e ? say(e.title) || e.name : String(v);
  }
  if (typeof v === "number") return def.kind === "int" ? String(v) : decimal(v);
  return v;
}

// decimal keeps as many places as are worth reading: three figures, no trailing noise.
function decimal(v: number): string {
  const size = Math.abs(v);
  const places = size >= 100 ? 0 : size >= 10 ? 1 : size >= 0.995 || size === 0 ? 1 : size >= 0.01 ? 2 : 3;
  return v.toFixed(places);
}

export function show(def: PointDef, live: Live | undefined, mono: number): Shown {
  const none: Shown = { text: "", unit: def.unit ?? "", trouble: "", note: "", abnormal: false };
  if (!live) return { ...none, trouble: t("value.none") };
  const age = live.confirmed_ms === undefined ? 0 : mono - live.confirmed_ms;
  const ago = t("time.ago", { time: duration(age) });
  const quality = live.quality ?? "good";
  if (quality.startsWith("bad")) {
    const last = valueText(def, live.last);
    const unit = def.unit ? " " + def.unit : "";
    return { ...none, trouble: known("quality." + quality, quality), note: last ? t("value.last", { value: last + unit, age: ago }) : "" };
  }
  const notes: string[] = [];
  if (quality !== "good") notes.push(known("quality." + quality, quality));
  if (age > Math.max(OLD_MS, 3 * live.gap)) notes.push(ago);
  return {
    ...none,
    text: valueText(def, live.value),
    note: notes.join(language.lang === "zh" ? "，" : ", "),
    abnormal: def.alarm_when !== undefined && live.value === def.alarm_when,
  };
}

export function bytes(n: number): string {
  if (n < 1 << 20) return `${(n / 1024).toFixed(0)} KB`;
  if (n < 1 << 30) return `${(n / (1 << 20)).toFixed(1)} MB`;
  return `${(n / (1 << 30)).toFixed(1)} GB`;
}
