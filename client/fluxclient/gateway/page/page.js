// The page for people. Each picture is a request of its own, with its own progress and cancel; the server draws them
// together all the same. (Over HTTP/1.1 a browser sends six at once, the others as these end.) What the options mean and
// allow, the server says: nothing is checked here.

const STEPS = "num_inference_steps";
const GUIDANCE = "guidance_scale";
const SHOWN = {
  size: "Size",
  [STEPS]: "Steps",
  [GUIDANCE]: "Guidance",
  seed: "Seed",
  output_format: "Format",
  lora: "LoRA",
  true_cfg_scale: "True CFG",
  negative_prompt: "Negative prompt",
  image: "Begin with",
  strength: "Strength",
};
const NUMBERS = new Set([STEPS, GUIDANCE, "seed", "true_cfg_scale", "strength"]);
const JSON_NUMBER = /^-?(0|[1-9]\d*)(\.\d+)?$/;
const PREVIEWS = 3; // most that the API sends
const QUIET_MS = 5000; // between two spoken reports of progress

const $ = (id) => document.getElementById(id);
const composer = $("composer");
const refused = new Set(); // cards that an API key may help

/** What the server says is wrong; `param` is the option at fault, if it is one. */
class Fault extends Error {
  constructor(message, { param = null, status = 0 } = {}) {
    super(message);
    this.param = param;
    this.status = status;
  }
}

/** The data of each server-sent event of a response's body. */
async function* serverSentEvents(body) {
  const reader = body.pipeThrough(new TextDecoderStream()).getReader();
  let rest = "";
  let data = [];
  for (;;) {
    const { done, value } = await reader.read();
    if (done) return;
    // A CR at the end of a chunk may be half of a CRLF: it waits for the next one.
    const lines = (rest + value).split(/\r\n|\n|\r(?!$)/);
    rest = lines.pop();
    for (const line of lines) {
      if (line.startsWith("data:")) data.push(line.slice(5).replace(/^ /, ""));
      else if (line === "" && data.length > 0) {
        yield JSON.parse(data.join("\n"));
        data = [];
      }
    }
  }
}

/** JSON of the settings, which are text: numbers as they were typed, for seeds have more digits than a JS number. */
function jsonBody(settings) {
  const members = Object.entries(settings).map(([name, text]) => {
    const value = NUMBERS.has(name) && JSON_NUMBER.test(text) ? text : JSON.stringify(text);
    return `${JSON.stringify(name)}:${value}`;
  });
  return `{${members.join(",")},"stream":true,"partial_images":${PREVIEWS},"progress":true}`;
}

/** The same as a form, which can have a file in it. */
function formBody(settings) {
  const form = new FormData();
  const wanted = { ...settings, stream: "true", partial_images: `${PREVIEWS}`, progress: "true" };
  for (const [name, value] of Object.entries(wanted)) form.append(name, value);
  return form;
}

async function askFor(settings, signal) {
  const headers = settings.image ? {} : { "Content-Type": "application/json" }; // of a form, the browser sets it
  const key = sessionStorage.getItem("key");
  if (key) headers.Authorization = `Bearer ${key}`;
  const [path, body] = settings.image ? ["edits", formBody(settings)] : ["generations", jsonBody(settings)];
  const response = await fetch(`v1/images/${path}`, { method: "POST", headers, body, signal });
  if (response.ok) return response.body;
  const { error } = await response.json().catch(() => ({}));
  const message = error?.message ?? `HTTP ${response.status} ${response.statusText}`;
  throw new Fault(message, { param: error?.param, status: response.status });
}

let spokenAt = -Infinity;

/** Tells those who listen instead of looking. */
function announce(text) {
  spokenAt = performance.now();
  $("news").textContent = text;
}

/** One picture: what was asked for, how far it is, what came of it. */
class Card {
  /** `set` is shared by the pictures that were asked for at once. */
  constructor(settings, set) {
    this.settings = settings;
    this.set = set;
    this.item = $("card").content.firstElementChild.cloneNode(true);
    this.element = this.item.firstElementChild;
    this.part(".prompt").textContent = settings.prompt;
    this.element.setAttribute("aria-label", settings.prompt);
    this.shape(settings.size);
    this.element.addEventListener("click", (event) => this[event.target.closest("button")?.dataset.do]?.());
    this.element.addEventListener("keydown", (event) => event.key === "Escape" && this.cancel());
    $("gallery").prepend(this.item);
    this.draw();
  }

  part(selector) {
    return this.element.querySelector(selector);
  }

  async draw() {
    this.abort = new AbortController();
    this.show(this.settings);
    this.part(".fault").textContent = "";
    this.enter("waiting", "Waiting");
    announce(`Waiting: ${this.settings.prompt}`);
    try {
      for await (const event of serverSentEvents(await askFor(this.settings, this.abort.signal))) this.take(event);
      if (this.element.dataset.state !== "done") throw new Fault("The connection ended before the picture was done.");
    } catch (error) {
      if (this.element.dataset.state === "done") return;
      if (this.abort.signal.aborted) this.enter("cancelled", "Cancelled");
      else {
        this.abort.abort(); // whatever may still come, nobody reads
        this.fail(error instanceof Fault ? error : new Fault(`The connection failed: ${error.message}`));
      }
    }
  }

  take(event) {
    if (event.error) throw new Fault(event.error.message, event.error);
    const kind = event.type.split(".")[1]; // behind image_generation or image_edit
    if (kind === "progress") this.step(event);
    else if (kind === "partial_image") {
      this.part("img").src = `data:image/${event.output_format};base64,${event.b64_json}`;
      this.element.classList.add("pictured");
    } else if (kind === "completed") this.finish(event);
  }

  step({ step, total_steps: total }) {
    if (step === 0) return; // it still waits
    Object.assign(this.part("progress"), { max: total, value: step });
    this.enter("drawing", `Step ${step} of ${total}`);
    if (performance.now() - spokenAt > QUIET_MS) announce(`Step ${step} of ${total}: ${this.settings.prompt}`);
  }

  /** Keeps the place of a picture of this size, if it is one. */
  shape(size = "") {
    if (/^\d+x\d+$/.test(size)) this.part(".frame").style.aspectRatio = size.replace("x", " / ");
  }

  finish({ b64_json: base64, output_format: format, size, seed, info }) {
    const bytes = Uint8Array.from(atob(base64), (character) => character.charCodeAt(0));
    this.seed = this.settings.seed ?? `${seed}`;
    this.url = URL.createObjectURL(new Blob([bytes], { type: `image/${format}` }));
    this.part("img").src = this.url;
    this.part("img").alt = this.settings.prompt;
    this.shape(size);
    this.part(".frame").href = this.url;
    Object.assign(this.part("[data-do=download]"), { href: this.url, download: `flux-${this.seed}.${format}` });
    this.element.classList.add("pictured");
    this.show({
      ...this.settings,
      size: size.replace("x", "×"),
      [STEPS]: info.steps,
      // The server's 32-bit float, without its noise; null of a model that knows no guidance.
      [GUIDANCE]: info.guidance_scale === null ? undefined : Number(info.guidance_scale.toPrecision(6)),
      seed: this.seed,
      output_format: format,
    }, info.total_ms);
    this.enter("done", "");
    announce(`Done: ${this.settings.prompt}`);
  }

  fail(fault) {
    if (fault.status === 401) requireKey(this);
    else if (fault.param) markField(fault, this.settings);
    // The same settings meet the same refusal: one card tells of it.
    if (fault.param && this.set.refusal === fault.param) return this.remove();
    this.set.refusal = fault.param;
    this.part(".fault").textContent = fault.message;
    this.part(`[data-name="${fault.param}"]`)?.classList.add("wrong");
    this.enter("failed", "Failed");
  }

  /** The settings, by the names of the API; those that are undefined are left out. */
  show(settings, totalMs) {
    const rows = Object.entries(SHOWN).map(([name, label]) => settingRow(name, label, asText(settings[name])));
    if (totalMs !== undefined) rows.push(settingRow("time", "Time", duration(totalMs)));
    this.part(".settings").replaceChildren(...rows.filter((row) => row));
  }

  enter(state, text) {
    const focused = this.element.contains(document.activeElement);
    this.element.dataset.state = state;
    this.part(".state").textContent = text;
    if (state === "cancelled") announce(`Cancelled: ${this.settings.prompt}`);
    // What had the focus may be hidden now.
    if (focused && !document.activeElement.checkVisibility()) this.element.focus();
  }

  /** The settings with the seed that was drawn, so that they give the same picture. */
  get seeded() {
    return this.seed === undefined ? this.settings : { ...this.settings, seed: this.seed };
  }

  cancel() {
    this.abort.abort();
  }

  again() {
    start([this.seeded]).focus();
  }

  anew() {
    const { seed, ...settings } = this.settings;
    start([settings]).focus();
  }

  edit() {
    const settings = this.seeded;
    for (const name of ["prompt", ...Object.keys(SHOWN)]) {
      const field = composer.elements[name];
      if (field.type === "file") choose(field, settings[name]);
      else field.value = settings[name] ?? "";
      clearField(field);
    }
    composer.elements.prompt.focus();
  }

  remove() {
    this.cancel();
    const neighbour = this.item.nextElementSibling ?? this.item.previousElementSibling;
    const focused = this.element.contains(document.activeElement);
    refused.delete(this);
    this.item.remove();
    if (this.url) URL.revokeObjectURL(this.url);
    if (focused) (neighbour?.firstElementChild ?? composer.elements.prompt).focus();
  }
}

/** A setting as it is shown: of a file, its name. */
function asText(setting) {
  return setting instanceof File ? setting.name : setting;
}

function settingRow(name, label, value) {
  if (value === undefined || value === "") return null;
  const row = document.createElement("div");
  row.dataset.name = name;
  row.append(document.createElement("dt"), document.createElement("dd"));
  row.firstChild.textContent = label;
  row.lastChild.textContent = value;
  return row;
}

function duration(ms) {
  return ms < 1000 ? `${ms.toFixed()} ms` : `${(ms / 1000).toFixed(1)} s`;
}

/** Starts a picture for each of the settings and returns the element of the first. */
function start(all) {
  const set = {};
  // Newest first, those of one set in order.
  const cards = all.toReversed().map((settings) => new Card(settings, set));
  const first = cards.at(-1).element;
  first.scrollIntoView({ block: "nearest" });
  return first;
}

/** Puts a file, or none, into a field as if it had been chosen there. */
function choose(field, file) {
  const chosen = new DataTransfer();
  if (file) chosen.items.add(file);
  field.files = chosen.files;
}

function clearField(field) {
  field.removeAttribute("aria-invalid");
  const fault = $(`${field.name}-fault`);
  if (fault) fault.textContent = "";
}

/** Says it at the field too, while that still holds what was refused. */
function markField(fault, settings) {
  const field = composer.elements[fault.param];
  if (!field || asText(field.files?.[0] ?? field.value.trim()) !== (asText(settings[fault.param]) ?? "")) return;
  field.closest("details")?.setAttribute("open", "");
  field.setAttribute("aria-invalid", "true");
  const place = $(`${field.name}-fault`);
  if (place) place.textContent = fault.message.replace(/\s*\[request [^\]]*\]$/, ""); // its id stands in the card
}

function requireKey(card) {
  refused.add(card);
  sessionStorage.removeItem("key");
  $("access").hidden = false;
  $("key").focus();
}

$("access").addEventListener("submit", (event) => {
  event.preventDefault();
  sessionStorage.setItem("key", $("key").value);
  $("access").reset();
  $("access").hidden = true;
  composer.elements.prompt.focus();
  for (const card of refused) card.draw();
  refused.clear();
});

composer.addEventListener("submit", (event) => {
  event.preventDefault();
  const { n, ...fields } = Object.fromEntries(new FormData(composer));
  if (!fields.image.name) delete fields.image; // without a file it is an empty one
  const typed = Object.entries(fields).map(([name, value]) => [name, value instanceof File ? value : value.trim()]);
  const kept = new Set(fields.true_cfg_scale.trim() ? ["prompt", "negative_prompt"] : ["prompt"]); // empty ones, too
  const settings = Object.fromEntries(typed.filter(([name, value]) => value || kept.has(name)));
  const { seed } = settings;
  start(Array.from({ length: Number(n) }, (_, i) => {
    // As the API counts: picture i of a seed has seed + i.
    return /^\d+$/.test(seed ?? "") ? { ...settings, seed: `${BigInt(seed) + BigInt(i)}` } : settings;
  }));
});

composer.addEventListener("keydown", (event) => {
  if (event.key === "Enter" && (event.ctrlKey || event.metaKey)) {
    event.preventDefault(); // some fields submit by themselves
    composer.requestSubmit();
  }
});
composer.addEventListener("input", (event) => clearField(event.target));

if (matchMedia("(max-width: 40rem)").matches) composer.querySelector("details").open = false;
