import type { Alert } from "./types";
import { calling, occasion } from "./now.svelte";

const SILENCE_MS = 3 * 60_000;

type Context = AudioContext;

// Sound plays what cannot wait for a look: a two-tone for critical alerts until each is acknowledged or silenced, a
// chime for a new warning. Of suppressed alerts nothing is heard. It says itself when it cannot.
class Sound {
  supported = typeof window !== "undefined" && ("AudioContext" in window || "webkitAudioContext" in window);
  running = $state(false); // whether the browser lets us play
  silencedUntil = $state(0); // performance.now() when the silence ends
  ringing = $state(false);

  private silenced = new Set<string>(); // occasions of what rang when the silence was asked for; what comes later rings
  private chimed = new Set<string>(); // occasions that have been heard, by chime or worse
  private primed = false; // the first look at the alerts makes no chime
  private context: Context | null = null;
  private siren: AudioBufferSourceNode | null = null;

  // start looks whether sound is allowed already, and takes the first touch anywhere as leave to play.
  start(): () => void {
    if (!this.supported) return () => undefined;
    const unlock = (e?: Event) => {
      if (!e || e.isTrusted) void this.unlock();
    };
    const events = ["pointerdown", "keydown", "touchend"] as const;
    for (const e of events) window.addEventListener(e, unlock, { passive: true });
    // Without a touch most browsers refuse and write a warning to the console, so we only ask where we may.
    const activation = (navigator as { userActivation?: { hasBeenActive: boolean } }).userActivation;
    if (activation?.hasBeenActive) unlock();
    return () => {
      for (const e of events) window.removeEventListener(e, unlock);
    };
  }

  async unlock(): Promise<void> {
    if (!this.supported) return;
    try {
      if (!this.context) {
        const w = window as unknown as { AudioContext?: typeof AudioContext; webkitAudioContext?: typeof AudioContext };
        const Ctor = w.AudioContext ?? w.webkitAudioContext;
        if (!Ctor) return;
        this.context = new Ctor();
        this.context.onstatechange = () => this.look();
      }
      if (this.context.state !== "running") await this.context.resume();
    } catch {
      // Not allowed yet: the banner stays.
    }
    this.look();
  }

  private look(): void {
    this.running = this.context?.state === "running";
    this.ring(this.ringing);
  }

  silence(open: Alert[]): void {
    for (const a of open) if (a.severity === "critical" && !a.suppressed) this.silenced.add(occasion(a));
    this.silencedUntil = performance.now() + SILENCE_MS;
    this.update(open, performance.now());
  }

  unsilence(open: Alert[]): void {
    this.silenced.clear();
    this.silencedUntil = 0;
    this.update(open, performance.now());
  }

  // update decides what must sound now.
  update(open: Alert[], at: number): void {
    const loud = open.filter((a) => a.severity === "critical" && calling(a));
    // The silence ends with its time, or with the last alert that it was asked for.
    if (this.silencedUntil !== 0 && (at >= this.silencedUntil || !loud.some((a) => this.silenced.has(occasion(a))))) {
      this.silenced.clear();
      this.silencedUntil = 0;
    }
    this.ring(loud.some((a) => !this.silenced.has(occasion(a))));
    for (const a of open) {
      if (a.severity === "notice" || !calling(a) || this.chimed.has(occasion(a))) continue;
      this.chimed.add(occasion(a));
      if (this.primed && a.severity === "warning") this.chime();
    }
    this.primed = true;
  }

  private ring(on: boolean): void {
    this.ringing = on;
    const c = this.context;
    if (!c) return;
    if (!on || c.state !== "running") {
      this.siren?.stop();
      this.siren = null;
      return;
    }
    if (this.siren) return;
    // A loop that the audio thread plays by itself: timers of a page in the background are slowed down.
    this.siren = c.createBufferSource();
    this.siren.buffer = twoTone(c);
    this.siren.loop = true;
    this.siren.connect(c.destination);
    this.siren.start();
  }

  private chime(): void {
    const c = this.context;
    if (!c || c.state !== "running") return;
    const tone = c.createOscillator();
    const gain = c.createGain();
    tone.frequency.value = 784;
    gain.gain.setValueAtTime(0.0001, c.currentTime);
    gain.gain.exponentialRampToValueAtTime(0.25, c.currentTime + 0.02);
    gain.gain.exponentialRampToValueAtTime(0.0001, c.currentTime + 0.9);
    tone.connect(gain);
    gain.connect(c.destination);
    tone.start();
    tone.stop(c.currentTime + 1);
  }
}

// twoTone is two seconds: high, low, high, low, pause.
function twoTone(c: Context): AudioBuffer {
  const rate = c.sampleRate;
  const buffer = c.createBuffer(1, 2 * rate, rate);
  const data = buffer.getChannelData(0);
  const part = 0.35;
  for (let i = 0; i < 4 * part * rate; i++) {
    const at = i / rate;
    const n = Math.floor(at / part);
    const within = at - n * part;
    const edge = Math.min(1, within / 0.01, (part - within) / 0.01);
    const f = n % 2 === 0 ? 960 : 720;
    data[i] = 0.35 * edge * (Math.sin(2 * Math.PI * f * at) + 0.3 * Math.sin(6 * Math.PI * f * at));
  }
  return buffer;
}

export const sound = new Sound();
