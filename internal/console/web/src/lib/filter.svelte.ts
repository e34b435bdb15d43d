import { inZone, type Lookup } from "./site";
import type { Alert, Device } from "./types";

// Filter narrows what is listed. It never hides that there is more: the lists say how much they leave out.
class Filter {
  zone = $state("");
  kind = $state("");
  onlyUnknown = $state(false);
  open = $state(false); // on a phone the choices are behind one button

  active = $derived(this.zone !== "" || this.kind !== "" || this.onlyUnknown);

  clear(): void {
    this.zone = this.kind = "";
    this.onlyUnknown = false;
  }

  alert(look: Lookup, a: Alert): boolean {
    const zone = a.zone || look.devices.get(a.device ?? "")?.zone;
    return (this.zone === "" || inZone(look, zone, this.zone)) && (this.kind === "" || a.class === this.kind);
  }

  device(look: Lookup, d: Device): boolean {
    return (this.zone === "" || inZone(look, d.zone, this.zone)) && (this.kind === "" || d.class === this.kind);
  }
}

export const filter = new Filter();
