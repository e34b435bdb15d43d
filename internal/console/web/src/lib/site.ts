import { language, say } from "./i18n.svelte";
import type { Live } from "./now.svelte";
import type { Alert, Class, Device, PointDef, Site, Text, Value, Zone } from "./types";

// Place and kind of everything, looked up once per site.
export interface Lookup {
  zones: Map<string, Zone>;
  classes: Map<string, Class>;
  devices: Map<string, Device>;
}

export function lookup(site: Site | null): Lookup {
  return {
    zones: new Map((site?.zones ?? []).map((z) => [z.id, z])),
    classes: new Map((site?.classes ?? []).map((c) => [c.id, c])),
    devices: new Map((site?.devices ?? []).map((d) => [d.id, d])),
  };
}

// zonePath is the zone for people, outermost first.
export function zonePath(look: Lookup, id: string): string {
  const names: string[] = [];
  for (let z = look.zones.get(id); z; z = z.parent ? look.zones.get(z.parent) : undefined) names.unshift(say(z.title) || z.id);
  return names.join(language.lang === "zh" ? " · " : " · ");
}

export function inZone(look: Lookup, id: string | undefined, within: string): boolean {
  for (let z = look.zones.get(id ?? ""); z; z = z.parent ? look.zones.get(z.parent) : undefined) if (z.id === within) return true;
  return false;
}

// sameName reports whether a device's name says all that its class says: 电表 1 is an 电能表, "Corridor smoke detector"
// is a "Smoke detector". Numbers do not count. In Chinese, letters are compared in their order; elsewhere, words.
export function sameName(title: string, cls: string): boolean {
  const bare = (s: string) => s.toLowerCase().replace(/[\d\s号#·._-]+/g, language.lang === "zh" ? "" : " ").trim();
  const [a, b] = [bare(title), bare(cls)];
  if (a === "" || b === "") return b === "";
  const parts = (s: string) => (language.lang === "zh" ? [...s] : s.split(" "));
  const [short, long] = parts(a).length <= parts(b).length ? [parts(a), parts(b)] : [parts(b), parts(a)];
  if (language.lang !== "zh") return short.every((w) => long.includes(w));
  let at = 0;
  for (const c of long) if (c === short[at]) at++;
  return at === short.length;
}

// concerned are the points of a device that an alert is about: those its detail names, otherwise those its class calls
// abnormal in one state, otherwise the first. At most two: they have one line.
export function concerned(d: Device, cls: Class | undefined, detail: Text | undefined, values: ReadonlyMap<number, Live>): { id: number; def: PointDef }[] {
  const provided: { id: number; def: PointDef }[] = [];
  cls?.points.forEach((def, i) => {
    const id = d.points[i];
    if (typeof id === "number") provided.push({ id, def });
  });
  let text = say(detail);
  const named = new Set<number>();
  // Longer titles first, so that 温度 is not found in 电缆温度.
  for (const p of [...provided].sort((a, b) => say(b.def.title).length - say(a.def.title).length)) {
    const title = say(p.def.title);
    const at = title ? text.toLowerCase().indexOf(title.toLowerCase()) : -1;
    if (at < 0) continue;
    named.add(p.id);
    text = text.slice(0, at) + "\n" + text.slice(at + title.length);
  }
  const found = provided.filter((p) => named.has(p.id));
  if (found.length > 0) return found.slice(0, 2);
  const marked = provided.filter((p) => p.def.alarm_when !== undefined);
  const abnormal = marked.filter((p) => values.get(p.id)?.value === p.def.alarm_when);
  if (abnormal.length > 0) return abnormal.slice(0, 2);
  return (marked.length > 0 ? marked : provided).slice(0, 1);
}

export type Health = "normal" | "unknown" | "lost";

// health is the worst that can be said of a device: lost when nothing of it answers, unknown when something cannot
// be told.
export function health(d: Device, values: ReadonlyMap<number, Live>): Health {
  let provided = 0;
  let silent = 0;
  let bad = 0;
  for (const id of d.points) {
    if (id === null) continue;
    provided++;
    const v = values.get(id);
    if (!v) bad++;
    else if (v.quality?.startsWith("bad")) {
      bad++;
      if (v.quality === "bad_comm") silent++;
    }
  }
  if (provided > 0 && silent === provided) return "lost";
  return bad > 0 ? "unknown" : "normal";
}

export interface Bin { device: Device; def: PointDef; point: number; stream: string; name: string }
export interface Station { id: string; name: string; bins: Bin[] }

const streams: Record<string, { zh: string; en: string }> = {
  recyclable: { zh: "可回收物", en: "Recyclable" },
  hazardous: { zh: "有害垃圾", en: "Hazardous" },
  kitchen: { zh: "厨余垃圾", en: "Kitchen" },
  residual: { zh: "其他垃圾", en: "Residual" },
};

// stations finds the bins by what they measure: every point whose name ends in fill_pct is one bin. Its stream comes
// from the point's name, or from the device's point "stream".
export function stations(site: Site | null, look: Lookup, values: ReadonlyMap<number, Live>): Station[] {
  const found = new Map<string, Station>();
  for (const device of site?.devices ?? []) {
    const defs = look.classes.get(device.class)?.points ?? [];
    defs.forEach((def, i) => {
      const point = device.points[i];
      if (!/(^|_)fill_pct$/.test(def.name) || point === null || point === undefined) return;
      let station = found.get(device.zone);
      if (!station) found.set(device.zone, (station = { id: device.zone, name: zonePath(look, device.zone), bins: [] }));
      const stream = streamOf(device, defs, def, values);
      station.bins.push({ device, def, point, stream: stream.key, name: stream.name || say(device.title) || device.id });
    });
  }
  const order = Object.keys(streams);
  const at = (b: Bin) => (order.indexOf(b.stream) + order.length + 1) % (order.length + 1);
  for (const s of found.values()) s.bins.sort((a, b) => at(a) - at(b));
  return [...found.values()];
}

function streamOf(device: Device, defs: PointDef[], fill: PointDef, values: ReadonlyMap<number, Live>): { key: string; name: string } {
  const prefix = fill.name.replace(/_?fill_pct$/, "");
  const i = defs.findIndex((d) => d.name === "stream");
  const point = i < 0 ? null : device.points[i];
  const value: Value | undefined = i < 0 ? undefined : typeof point === "number" ? values.get(point)?.value : device.constants[i];
  const named = typeof value === "string" ? value : defs[i]?.enum?.find((e) => e.code === value)?.name;
  const title = defs[i]?.enum?.find((e) => e.code === value)?.title;
  const key = Object.keys(streams).find((k) => k === named || k === prefix) ?? named ?? prefix;
  return { key, name: say(streams[key] ?? title) };
}

// worst returns the worst open alert of a device.
export function worst(open: Alert[], device: string): Alert | undefined {
  return open.find((a) => a.device === device); // open is sorted worst first
}
