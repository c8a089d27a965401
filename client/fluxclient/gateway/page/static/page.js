// The page for people. Each picture is a request of its own, with its own progress and cancel; the server draws them
// together all the same. (Over HTTP/1.1 a browser sends six at once, the others as these end.)

import { asked, edit, markField, showDefaults } from "./composer.js";
import { add, remove, selectFirst, selectedPicture } from "./gallery.js";
import { Picture } from "./picture.js";
import { parseSize } from "./settings.js";
import { watchServer } from "./server.js";
import { chosenSize } from "./sizes.js";
import { show } from "./stage.js";

const QUIET_MS = 5000; // between two spoken reports of progress

const $ = (id) => document.getElementById(id);
const composer = $("composer");
const stage = $("stage");
const refused = new Set(); // pictures that an API key may help
let usualSize = [1, 1];

/** Starts a picture for each of the settings and shows the first. */
function start(all) {
  const set = {};
  // Newest first, those of one set in order.
  for (const settings of all.toReversed()) {
    const picture = new Picture(settings, set);
    picture.addEventListener("change", () => tell(picture));
    add(picture);
    picture.draw();
  }
  selectFirst();
  scrollTo(0, 0); // on a phone, where the picture is
}

let spokenAt = -Infinity;

/** Tells those who listen instead of looking. */
function announce(text) {
  spokenAt = performance.now();
  $("news").textContent = text;
}

function tell(picture) {
  const { state, step, totalSteps, settings } = picture;
  if (state === "drawing") {
    if (performance.now() - spokenAt > QUIET_MS) announce(`Step ${step} of ${totalSteps}: ${settings.prompt}`);
    return;
  }
  if (state === "failed") fail(picture);
  else announce(`${state[0].toUpperCase()}${state.slice(1)}: ${settings.prompt}`);
  lookAtServer();
}

function fail(picture) {
  const { fault, settings, set } = picture;
  if (fault.status === 401) requireKey(picture);
  else if (fault.param) markField(fault, settings);
  // The same settings meet the same refusal: one picture tells of it.
  if (fault.param && set.refusal === fault.param) remove(picture);
  set.refusal = fault.param;
}

function requireKey(picture) {
  refused.add(picture);
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
  for (const picture of refused) picture.draw();
  refused.clear();
});

composer.addEventListener("submit", (event) => {
  event.preventDefault();
  start(asked());
});

const DOES = {
  cancel: (picture) => picture.cancel(),
  again: (picture) => start([picture.seeded]),
  anew: ({ settings: { seed, ...settings } }) => start([settings]),
  edit: (picture) => edit(picture.seeded),
  remove(picture) {
    refused.delete(picture);
    remove(picture);
    if (!selectedPicture()) composer.elements.prompt.focus();
  },
};

stage.addEventListener("click", (event) => DOES[event.target.closest("button")?.dataset.do]?.(selectedPicture()));
document.querySelector("main").addEventListener("keydown", (event) => {
  if (event.key === "Escape") selectedPicture()?.cancel();
});

/** Before there are pictures, the place for one has the size that is chosen. */
function showPlace() {
  if (!selectedPicture()) show(null, parseSize(chosenSize()) ?? usualSize);
}

composer.addEventListener("size", showPlace);
const lookAtServer = watchServer((state) => {
  if (state.defaults.width) usualSize = [state.defaults.width, state.defaults.height];
  showDefaults(state);
  showPlace();
});
showPlace();
