// All pictures, newest first, as tiles; one of them is on the stage.

import { show, showProgress } from "./stage.js";

const list = document.getElementById("tiles");
const template = document.getElementById("tile");
const entries = []; // of { picture, item, tile }, as the tiles are ordered
let selected = null;

export function selectedPicture() {
  return selected?.picture ?? null;
}

export function add(picture) {
  const item = template.content.firstElementChild.cloneNode(true);
  const entry = { picture, item, tile: item.firstElementChild };
  entry.tile.addEventListener("click", () => select(entry));
  picture.addEventListener("change", () => update(entry));
  entries.unshift(entry);
  list.prepend(item);
  update(entry);
}

export function selectFirst() {
  select(entries[0]);
}

/** Takes it away; its neighbour is selected. */
export function remove(picture) {
  const index = entries.findIndex((entry) => entry.picture === picture);
  if (index < 0) return;
  const [entry] = entries.splice(index, 1);
  entry.item.remove();
  picture.close();
  if (selected === entry) select(entries[Math.min(index, entries.length - 1)]);
}

function select(entry) {
  selected?.tile.removeAttribute("aria-current");
  selected = entry ?? null;
  show(selectedPicture());
  // One stop of the Tab key, from which arrows lead to the others.
  for (const { tile } of entries) tile.tabIndex = -1;
  if (!selected) return;
  selected.tile.setAttribute("aria-current", "true");
  selected.tile.tabIndex = 0;
  selected.item.scrollIntoView({ block: "nearest", inline: "nearest" });
}

function update(entry) {
  if (!entry.item.isConnected) return;
  const { picture, tile } = entry;
  tile.dataset.state = picture.state;
  tile.classList.toggle("pictured", Boolean(picture.source));
  tile.setAttribute("aria-label", `${picture.settings.prompt}, ${picture.state}`);
  const image = tile.querySelector("img");
  if (!picture.source) image.removeAttribute("src");
  else if (image.src !== picture.source) image.src = picture.source;
  showProgress(tile.querySelector("progress"), picture);
  if (entry === selected) show(picture);
}

const STEPS = { ArrowLeft: -1, ArrowUp: -1, ArrowRight: 1, ArrowDown: 1 };

list.addEventListener("keydown", (event) => {
  const next = entries[entries.indexOf(selected) + STEPS[event.key]];
  if (!next) return;
  event.preventDefault();
  select(next);
  next.tile.focus();
});
