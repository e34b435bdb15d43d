import { remember, remembered } from "./remember";

// Person is who sits at this page: their name goes into the record of what they do.
class Person {
  name = $state(remembered("name"));
  asking = $state(false);
  private then: (() => void) | null = null;
  forAction = $state(false);

  // ask opens the question; then runs once there is a name.
  ask(then: (() => void) | null = null): void {
    this.then = then;
    this.forAction = then !== null;
    this.asking = true;
  }

  // need runs action at once where the name is known, otherwise after asking for it.
  need(action: () => void): void {
    if (this.name) action();
    else this.ask(action);
  }

  save(name: string): void {
    this.name = name.trim().slice(0, 40);
    remember("name", this.name);
    const then = this.then;
    this.cancel();
    if (this.name && then) then();
  }

  cancel(): void {
    this.asking = false;
    this.then = null;
  }
}

export const person = new Person();
