// One picture: what was asked for, how far it is, what came of it. Says "change" when any of this does.

import { Fault, drawn } from "./api.js";

export class Picture extends EventTarget {
  /** `set` is shared by the pictures that were asked for at once. */
  constructor(settings, set) {
    super();
    this.settings = settings;
    this.set = set;
    this.begin();
  }

  begin() {
    this.state = "waiting";
    this.step = this.totalSteps = 0;
    this.source = null; // of a preview, then of the picture
    this.url = this.fault = this.result = null;
  }

  /** The settings with the seed that was drawn, so that they give the same picture. */
  get seeded() {
    return this.result ? { ...this.settings, seed: this.result.seed } : this.settings;
  }

  async draw() {
    const abort = (this.abort = new AbortController());
    this.begin();
    this.changed();
    try {
      for await (const event of drawn(this.settings, abort.signal)) this.take(event);
      if (this.state !== "done") throw new Fault("The connection ended before the picture was done.");
    } catch (error) {
      if (this.state === "done") return;
      if (abort.signal.aborted) return this.enter("cancelled");
      abort.abort(); // whatever may still come, nobody reads
      this.fault = error instanceof Fault ? error : new Fault(`The connection failed: ${error.message}`);
      this.enter("failed");
    }
  }

  cancel() {
    this.abort.abort();
  }

  /** Lets go of what it holds. */
  close() {
    this.cancel();
    if (this.url) URL.revokeObjectURL(this.url);
  }

  take(event) {
    if (event.error) throw new Fault(event.error.message, event.error);
    const kind = event.type.split(".")[1]; // behind image_generation or image_edit
    if (kind === "progress" && event.step > 0) {
      [this.step, this.totalSteps] = [event.step, event.total_steps];
      this.enter("drawing");
    } else if (kind === "partial_image") {
      this.source = `data:image/${event.output_format};base64,${event.b64_json}`;
      this.changed();
    } else if (kind === "completed") this.finish(event);
  }

  finish({ b64_json: base64, output_format: format, size, seed, info }) {
    const bytes = Uint8Array.from(atob(base64), (character) => character.charCodeAt(0));
    this.source = this.url = URL.createObjectURL(new Blob([bytes], { type: `image/${format}` }));
    this.result = { seed: this.settings.seed ?? `${seed}`, size, format, info };
    this.enter("done");
  }

  get fileName() {
    return `flux-${this.result.seed}.${this.result.format}`;
  }

  enter(state) {
    this.state = state;
    this.changed();
  }

  changed() {
    this.dispatchEvent(new Event("change"));
  }
}
