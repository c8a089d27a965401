// The form: what it holds, what it begins with, and what the server says is wrong with it. What the options mean and
// allow, the server says: nothing is checked here.

import { SHOWN, asText } from "./settings.js";
import { chosenSize, offerSizes, setSize, sizeField } from "./sizes.js";
import { choose } from "./start_picture.js";

const $ = (id) => document.getElementById(id);
const composer = $("composer");

/** What the server takes where nothing is said is shown as what it is. */
export function showDefaults({ defaults, limits }) {
  for (const name of ["num_inference_steps", "guidance_scale", "strength"]) {
    if (name in defaults) composer.elements[name].defaultValue = `${defaults[name]}`; // not over what was typed
  }
  if (defaults.width && limits.width) {
    offerSizes([defaults.width, defaults.height], [limits.width, limits.height]);
  }
  if (limits.num_images_per_prompt) composer.elements.n.max = limits.num_images_per_prompt;
  countChanged();
}

/** The settings of each picture that is asked for. */
export function asked() {
  const { n, shape, size, own_size, ...fields } = Object.fromEntries(new FormData(composer));
  if (!fields.image.name) {
    delete fields.image; // without a file it is an empty one
    delete fields.strength;
  }
  const typed = Object.entries({ ...fields, size: chosenSize() });
  const trimmed = typed.map(([name, value]) => [name, value instanceof File ? value : value.trim()]);
  const kept = new Set(fields.true_cfg_scale.trim() ? ["prompt", "negative_prompt"] : ["prompt"]); // empty ones, too
  const settings = Object.fromEntries(trimmed.filter(([name, value]) => value || kept.has(name)));
  const { seed } = settings;
  return Array.from({ length: Number(n) }, (_, i) => {
    // As the API counts: picture i of a seed has seed + i.
    return /^\d+$/.test(seed ?? "") ? { ...settings, seed: `${BigInt(seed) + BigInt(i)}` } : settings;
  });
}

/** Brings settings back, to be changed. */
export function edit(settings) {
  for (const name of ["prompt", ...Object.keys(SHOWN)]) {
    if (name === "image") choose(settings.image);
    else if (name === "size") setSize(settings.size ?? "");
    else {
      const field = composer.elements[name];
      field.value = settings[name] ?? defaultOf(field);
    }
    clearField(name);
  }
  countChanged();
  composer.elements.prompt.focus();
}

/** Says it at the field too, while that still holds what was refused. */
export function markField(fault, settings) {
  const field = fault.param === "size" ? sizeField() : composer.elements[fault.param];
  if (!field || asText(field.files?.[0] ?? field.value.trim()) !== (asText(settings[fault.param]) ?? "")) return;
  field.closest("details")?.setAttribute("open", "");
  field.setAttribute("aria-invalid", "true");
  const place = $(`${fault.param}-fault`);
  if (place) place.textContent = fault.message;
}

function clearField(name) {
  for (const field of name === "size" ? [$("size"), $("own_size")] : [composer.elements[name]]) {
    field.removeAttribute("aria-invalid");
  }
  const place = $(`${name}-fault`);
  if (place) place.textContent = "";
}

function defaultOf(field) {
  if (field.options === undefined) return field.defaultValue;
  return ([...field.options].find((option) => option.defaultSelected) ?? field.options[0]).value;
}

/** Options out of sight are not out of mind. */
function countChanged() {
  const fields = [...$("more").querySelectorAll("input, select")];
  const changed = fields.filter((field) => field.value.trim() !== defaultOf(field)).length;
  $("changed").textContent = changed ? `${changed} set` : "";
}

for (const type of ["input", "change"]) {
  composer.addEventListener(type, ({ target }) => {
    if (target.name === "shape" || target.name === "size" || target.name === "own_size") clearField("size");
    else clearField(target.name);
    countChanged();
  });
}

composer.addEventListener("keydown", (event) => {
  if (event.key === "Enter" && (event.ctrlKey || event.metaKey)) {
    event.preventDefault(); // some fields submit by themselves
    composer.requestSubmit();
  }
});
