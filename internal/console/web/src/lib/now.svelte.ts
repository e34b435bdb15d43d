import { SvelteMap } from "svelte/reactivity";
import type { Alert, AlertsChanged, Heartbeat, Moment, PointValue, Scenario, Server, Severity, Site, Snapshot, Status, Text, ValuesChanged } from "./types";

// The gateway says something at least every 5 s; silence for longer than this is a lost connection.
const SILENCE_MS = 12_000;
const RETRY_MS = [1000, 2000, 3000, 5000];
const RECENT = 20;

const rank: Record<Severity, number> = { critical: 0, warning: 1, notice: 2 };

// worstFirst is the order of open alerts: what another alert explains last; severity; what waits for somebody before what
// has been seen; what is confirmed for a zone or the site before the single devices of which it was made; then newest first.
export function worstFirst(a: Alert, b: Alert): number {
  return (
    Number(!!a.suppressed) - Number(!!b.suppressed) ||
    rank[a.severity] - rank[b.severity] ||
    Number(unacknowledged(b)) - Number(unacknowledged(a)) ||
    Number(!!a.device) - Number(!!b.device) ||
    began(b).localeCompare(began(a)) ||
    b.id.localeCompare(a.id)
  );
}

// began is when the condition of an alert came last: for people this is when the alert began.
export function began(a: Alert): string {
  return a.raised_again_at ?? a.raised_at;
}

// occasion names one coming of an alert: the same alert raised again is a new one, and so is one that nothing suppresses
// any more, or that climbs because nobody acknowledged it.
export function occasion(a: Alert): string {
  return a.id + " " + began(a) + " " + (a.released_at ?? "") + " " + (a.tier ?? "");
}

export function unacknowledged(a: Alert): boolean {
  return a.state === "active_unacknowledged" || a.state === "returned_unacknowledged";
}

// calling reports whether an alert calls for somebody: nobody has acknowledged it, and no other alert explains it.
export function calling(a: Alert): boolean {
  return unacknowledged(a) && !a.suppressed;
}

// moment returns the milliseconds of a time, or 0 for one that is absent or was never set.
export function moment(time: string | undefined): number {
  if (!time || time.startsWith("0001-")) return 0;
  return Date.parse(time) || 0;
}

export type Link = "connecting" | "online" | "lost";
export type Cause = "" | "denied" | "full";
export interface Failure { message: Text | null; kind: "answer" | "network" | "timeout" }

// Point is one value with what is needed to say whether it is older than it should be.
export interface Live extends PointValue {
  gap: number; // smallest of the last distances between two reads that we saw, 0 while we saw one only
}

// Now is everything the page shows, kept up to date by one event stream.
class Now {
  site = $state.raw<Site | null>(null);
  server = $state.raw<Server | null>(null);
  status = $state.raw<Status>({});
  scenarios = $state.raw<Scenario[]>([]);
  alerts = new SvelteMap<string, Alert>();
  values = new SvelteMap<number, Live>();
  recentFailed = $state(false);

  link = $state<Link>("connecting");
  cause = $state<Cause>("");
  heardOnce = $state(false); // whether there has ever been a snapshot
  freshIds = $state.raw<ReadonlySet<string>>(new Set()); // alerts that came in, came again or became worse while the page was open

  // The page's clock: ticks each second, and follows the gateway's clocks, not this device's.
  tick = $state(performance.now());
  private heard = $state(0); // performance.now() of the last message
  private began = performance.now();
  private monoOffset = $state(0); // gateway's monotonic milliseconds minus performance.now()
  private wallOffset = $state<number | null>(null); // gateway's wall clock minus performance.now(); null: not set
  utcOffset = $state(0);

  private source: EventSource | null = null;
  private attempts = 0;
  private retry = 0;
  private instance = "";

  // mono and wall are the gateway's present moment; lostFor is the length of an interruption.
  mono = $derived(this.tick + this.monoOffset);
  wall = $derived(this.wallOffset === null ? 0 : this.tick + this.wallOffset);
  lostFor = $derived(Math.max(0, this.tick - (this.heard || this.began)));
  heardWall = $derived(this.wallOffset === null ? 0 : this.heard + this.wallOffset);

  open = $derived([...this.alerts.values()].filter((a) => a.state !== "closed").sort(worstFirst));
  closed = $derived(
    [...this.alerts.values()]
      .filter((a) => a.state === "closed")
      .sort((a, b) => moment(b.closed_at) - moment(a.closed_at))
      .slice(0, RECENT),
  );

  // start keeps the page up to date until the returned function is called.
  start(): () => void {
    const timer = setInterval(() => {
      this.tick = performance.now();
      if (this.link === "online" && this.tick - this.heard > SILENCE_MS) this.lose();
    }, 500);
    const offline = () => this.lose();
    const online = () => this.connect();
    const visible = () => {
      this.tick = performance.now();
      if (!document.hidden && this.link === "lost") this.connect();
    };
    window.addEventListener("offline", offline);
    window.addEventListener("online", online);
    document.addEventListener("visibilitychange", visible);
    this.connect();
    return () => {
      clearInterval(timer);
      clearTimeout(this.retry);
      window.removeEventListener("offline", offline);
      window.removeEventListener("online", online);
      document.removeEventListener("visibilitychange", visible);
      this.source?.close();
    };
  }

  // connect opens the stream. EventSource would try again by itself, but neither says why it failed nor keeps to
  // our intervals, so each attempt is a new one.
  private connect(): void {
    clearTimeout(this.retry);
    this.source?.close();
    const source = new EventSource("/api/v1/stream");
    this.source = source;
    const on = <T>(event: string, take: (data: T) => void) =>
      source.addEventListener(event, (e) => {
        if (this.source !== source) return;
        take(JSON.parse((e as MessageEvent<string>).data) as T);
        this.heard = this.tick = performance.now();
      });
    on<Snapshot>("snapshot", (s) => void this.takeSnapshot(s));
    on<Heartbeat>("heartbeat", (h) => {
      this.takeServer(h.server);
      this.takeMoment(h.now);
      this.status = h.status;
    });
    on<AlertsChanged>("alerts", (c) => {
      this.takeMoment(c.now);
      for (const a of c.alerts) this.takeAlert(a, true);
      for (const id of c.gone ?? []) this.alerts.delete(id);
    });
    on<ValuesChanged>("values", (v) => this.takeValues(v));
    source.onerror = () => {
      if (this.source === source) this.lose();
    };
  }

  private lose(): void {
    this.source?.close();
    this.source = null;
    this.tick = performance.now();
    this.link = "lost";
    void this.askWhy();
    const wait = RETRY_MS[Math.min(this.attempts, RETRY_MS.length - 1)] ?? 5000;
    this.attempts++;
    clearTimeout(this.retry);
    this.retry = window.setTimeout(() => this.connect(), wait);
  }

  // askWhy finds out what an EventSource does not tell: whether we are refused, or nobody answers.
  private async askWhy(): Promise<void> {
    try {
      const r = await fetch("/api/v1/demo", { cache: "no-store" });
      this.cause = r.status === 401 ? "denied" : r.ok && this.attempts > 2 ? "full" : "";
    } catch {
      this.cause = "";
    }
  }

  private takeMoment(m: Moment): void {
    const at = performance.now();
    this.monoOffset = m.mono_ms - at;
    this.wallOffset = m.time ? Date.parse(m.time) - at : null;
    this.utcOffset = m.utc_offset_s;
  }

  private takeServer(s: Server): void {
    // Another version of the page's files: this page may not understand the gateway any more.
    if (this.server && this.server.page !== s.page) location.reload();
    this.server = s;
  }

  private async takeSnapshot(s: Snapshot): Promise<void> {
    this.takeServer(s.server);
    this.takeMoment(s.now);
    this.status = s.status;
    this.recentFailed = !!s.alerts.recent_failed;
    if (this.instance !== s.server.instance) {
      // A new start of the gateway: point ids mean something else now.
      const source = this.source;
      // The stories of a demo come with it: they stand above the alerts and must not push them down later.
      const [site] = await Promise.all([this.loadSite(), this.loadScenarios()]);
      if (this.source !== source) return;
      if (!site) return this.lose();
      this.values.clear();
      this.site = site;
      this.instance = s.server.instance;
    } else void this.loadScenarios();
    const known = new Set([...s.alerts.open, ...s.alerts.recent].map((a) => a.id));
    for (const id of [...this.alerts.keys()]) if (!known.has(id)) this.alerts.delete(id);
    const fresh = this.heardOnce; // What came in while we were disconnected is new to the person.
    for (const a of s.alerts.open) this.takeAlert(a, fresh);
    for (const a of s.alerts.recent) this.takeAlert(a, false);
    for (const v of s.values) this.takeValue(v);
    this.attempts = 0;
    this.cause = "";
    this.link = "online";
    this.heardOnce = true;
  }

  private async loadSite(): Promise<Site | null> {
    try {
      const r = await fetch("/api/v1/site", { cache: "no-store" });
      return r.ok ? ((await r.json()) as Site) : null;
    } catch {
      return null;
    }
  }

  takeAlert(a: Alert, mayBeFresh: boolean): void {
    const old = this.alerts.get(a.id);
    if (old && old.revision > a.revision) return; // An answer and an event may cross.
    if (mayBeFresh && a.state !== "closed" && !a.suppressed && (!old || occasion(old) !== occasion(a) || rank[a.severity] < rank[old.severity])) this.markFresh(a.id);
    this.alerts.set(a.id, a);
  }

  private markFresh(id: string): void {
    this.freshIds = new Set([...this.freshIds, id]);
    setTimeout(() => {
      const rest = new Set(this.freshIds);
      rest.delete(id);
      this.freshIds = rest;
    }, 4000);
  }

  private takeValue(v: PointValue): void {
    const old = this.values.get(v.id);
    this.values.set(v.id, { ...v, gap: gap(old, v.confirmed_ms) });
  }

  private takeValues(batch: ValuesChanged): void {
    for (const v of batch.values) this.takeValue(v);
    for (const c of batch.confirmed ?? []) {
      for (const id of c.points) {
        const old = this.values.get(id);
        if (old) this.values.set(id, { ...old, confirmed_ms: c.ms, gap: gap(old, c.ms) });
      }
    }
  }

  async loadScenarios(): Promise<void> {
    try {
      const r = await fetch("/api/v1/demo", { cache: "no-store" });
      if (r.ok) this.scenarios = ((await r.json()) as { scenarios: Scenario[] }).scenarios;
    } catch {
      // The stream says that the connection is lost.
    }
  }

  // act posts an action and returns what went wrong, or null. A failure never looks like success: only an answer
  // of the gateway that says so counts.
  async act(path: string, body: object): Promise<Failure | null> {
    const stop = new AbortController();
    const timer = setTimeout(() => stop.abort(), 10_000);
    try {
      const r = await fetch("/api/v1/" + path, {
        method: "POST",
        headers: { "Content-Type": "application/json" },
        body: JSON.stringify(body),
        signal: stop.signal,
        cache: "no-store",
      });
      if (r.status === 204) return null;
      const answer = (await r.json()) as { alert?: Alert; error?: { message: Text } };
      if (r.ok && answer.alert) {
        this.takeAlert(answer.alert, false);
        return null;
      }
      return { kind: "answer", message: answer.error?.message ?? null };
    } catch (e) {
      if (stop.signal.aborted) return { kind: "timeout", message: null };
      return { kind: e instanceof SyntaxError ? "answer" : "network", message: null };
    } finally {
      clearTimeout(timer);
    }
  }
}

function gap(old: Live | undefined, confirmed: number | undefined): number {
  if (!old || old.confirmed_ms === undefined || confirmed === undefined) return old?.gap ?? 0;
  const seen = confirmed - old.confirmed_ms;
  if (seen <= 0) return old.gap;
  // One long pause is a fault, not the rhythm of the device: the rhythm grows slowly and shrinks at once.
  return old.gap === 0 ? seen : Math.min(seen, old.gap * 2);
}

export const now = new Now();
