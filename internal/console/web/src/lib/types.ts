// The messages of the API as docs/api.md describes them.

export type Lang = "zh" | "en";
export interface Text { zh: string; en: string }
export type Value = number | boolean | string | null;
export type Severity = "critical" | "warning" | "notice";
export type AlertState = "active_unacknowledged" | "active_acknowledged" | "returned_unacknowledged" | "closed";

export interface Alert {
  id: string;
  alert: string;
  subject: string;
  severity: Severity;
  state: AlertState;
  unknown?: boolean;
  life_safety?: boolean;
  tier?: "community" | "street" | "district";
  suppressed?: boolean;
  suppressed_by?: { alert: string; subject: string };
  title: Text;
  detail?: Text;
  device?: string;
  class?: string;
  zone?: string;
  place?: Text;
  raised_at: string;
  raised_again_at?: string;
  released_at?: string;
  changed_at?: string;
  acknowledged_at?: string;
  acknowledged_by?: string;
  returned_at?: string;
  closed_at?: string;
  close_reason?: string;
  revision: number;
  durable?: boolean;
  time_uncertain?: boolean;
}

export interface HistoryEntry { revision: number; time: string; what: string; by?: string; note?: string; detail?: Text }

export interface Zone { id: string; parent?: string; kind?: string; title: Text }
export interface EnumName { code: number; name: string; title: Text }
export interface PointDef {
  name: string;
  title: Text;
  kind: "float" | "int" | "bool" | "enum" | "text";
  unit?: string;
  enum?: EnumName[];
  alarm_when?: boolean;
  life_safety?: boolean;
  writable?: boolean;
}
export interface Class { id: string; title: Text; points: PointDef[] }
export interface Device { id: string; class: string; zone: string; title: Text; points: (number | null)[]; constants: Value[] }
export interface Site {
  site: string;
  gateway: string;
  title: Text;
  city?: string;
  district?: string;
  street?: string;
  timezone: string;
  zones: Zone[];
  classes: Class[];
  devices: Device[];
}

export interface Server { instance: string; page: string; version: string; build?: string; node: string }
export interface Moment { time?: string; mono_ms: number; utc_offset_s: number }

export interface PointValue {
  id: number;
  value: Value;
  quality?: string;
  last?: Value;
  confirmed_ms?: number;
  changed_ms: number;
}

export interface Status {
  dry_run?: boolean;
  outputs?: { point: number; device: string; name: string; value: Value; alert: string; subject: string; done: boolean }[];
  uplink?: { connected: boolean; since?: string; backlog: number; error?: string };
  journal?: { bytes: number; frames: number; commit_failures: number; samples_lost: number; damaged_frames: number; last_error?: string };
  buses?: { id: string; error?: string; units?: { id: string; online: boolean; error?: string }[] }[];
}

export interface Snapshot {
  server: Server;
  now: Moment;
  alerts: { open: Alert[]; recent: Alert[]; recent_failed?: boolean };
  values: PointValue[];
  status: Status;
}
export interface Heartbeat { server: Server; now: Moment; status: Status }
export interface AlertsChanged { now: Moment; alerts: Alert[]; gone?: string[] }
export interface ValuesChanged { mono_ms: number; values: PointValue[]; confirmed?: { ms: number; points: number[] }[] }
export interface Scenario { name: string; title: Text; what: Text; running: boolean }
