// The picture that is looked at, and the same enlarged.

import { applyFit, fit } from "./fit.js";
import { SHOWN, asText, duration, parseSize, sizeText } from "./settings.js";

const $ = (id) => document.getElementById(id);
const stage = $("stage");
const easel = $("easel");
const frame = $("frame");
const viewer = $("viewer");
const STATES = {
  waiting: () => "Waiting",
  drawing: ({ step, totalSteps }) => `Step ${step} of ${totalSteps}`,
  failed: () => "Failed",
  cancelled: () => "Cancelled",
};
const CLOSED = "What you draw appears here.";

let shown = null;
let emptySize = [1, 1];

/** Shows a picture, or none: then a place of `size` for the next. */
export function show(picture, size = emptySize) {
  const hadFocus = stage.contains(document.activeElement);
  const other = shown !== picture;
  [shown, emptySize] = [picture, size];
  stage.dataset.state = picture?.state ?? "empty";
  stage.classList.toggle("pictured", Boolean(picture?.source));
  const image = frame.querySelector("img");
  if (!picture?.source) image.removeAttribute("src");
  else if (image.src !== picture.source) image.src = picture.source;
  image.alt = picture?.state === "done" ? picture.settings.prompt : "";
  frame.disabled = picture?.state !== "done";
  stage.querySelector(".state").textContent = picture ? (STATES[picture.state]?.(picture) ?? "") : CLOSED;
  showProgress(stage.querySelector("progress"), picture);
  stage.querySelector(".fault").textContent = picture?.fault?.message ?? "";
  $("request").textContent = picture?.fault?.requestId ? `request ${picture.fault.requestId}` : "";
  stage.querySelector(".prompt").textContent = picture?.settings.prompt ?? "";
  stage.querySelector(".settings").replaceChildren(...(picture ? settingRows(picture) : []));
  offer(stage.querySelector("[data-do=download]"), picture);
  place();
  if (other && viewer.open) viewer.close();
  // What had the focus may be hidden now.
  if (hadFocus && !document.activeElement.checkVisibility()) stage.focus();
  if (hadFocus && document.activeElement === document.body) stage.focus();
}

/** A bar that is where the picture is; without a value before its first step. */
export function showProgress(bar, picture) {
  if (picture?.state === "drawing") Object.assign(bar, { max: picture.totalSteps, value: picture.step });
  else bar.removeAttribute("value");
}

function offer(link, picture) {
  if (picture?.state === "done") Object.assign(link, { href: picture.url, download: picture.fileName });
  else link.removeAttribute("href");
}

function sizeOf(picture) {
  return parseSize(picture.result?.size) ?? parseSize(picture.settings.size) ?? emptySize;
}

/** Keeps the picture's place from the moment that it is asked for: nothing moves while it is drawn. */
function place() {
  const size = shown ? sizeOf(shown) : emptySize;
  const { maxHeight } = getComputedStyle(easel);
  const room = [easel.clientWidth, maxHeight === "none" ? easel.clientHeight : parseFloat(maxHeight)];
  const fitted = fit(size, room);
  applyFit($("place"), { ...fitted, crisp: fitted.crisp && shown?.state === "done" }); // previews have other pixels
}

new ResizeObserver(place).observe(easel);

function settingRows({ settings, result, fault }) {
  const guidance = result?.info.guidance_scale;
  const values = result
    ? {
        ...settings,
        size: result.size,
        num_inference_steps: result.info.steps,
        // The server's 32-bit float, without its noise; null of a model that knows no guidance.
        guidance_scale: guidance === null ? "" : Number(guidance.toPrecision(6)),
        seed: result.seed,
        output_format: result.format,
      }
    : settings;
  const rows = Object.entries(SHOWN)
    .map(([name, label]) => [name, label, name === "size" ? sizeText(values[name]) : asText(values[name])])
    .filter(([, , value]) => value !== undefined && value !== "")
    .map(([name, label, value]) => settingRow(label, value, name === fault?.param));
  if (result) rows.push(settingRow("Time", duration(result.info.total_ms)));
  return rows;
}

function settingRow(label, value, wrong = false) {
  const row = document.createElement("div");
  row.classList.toggle("wrong", wrong);
  row.append(document.createElement("dt"), document.createElement("dd"));
  row.firstChild.textContent = label;
  row.lastChild.textContent = value;
  return row;
}

// --- enlarged ---

frame.addEventListener("click", () => {
  const image = viewer.querySelector("img");
  image.src = shown.url;
  image.alt = shown.settings.prompt;
  offer(viewer.querySelector("a"), shown);
  viewer.showModal();
  enlarge();
});

/** As large as the window has room for, and never smaller than it is: it is scrolled then. */
function enlarge() {
  if (!viewer.open) return;
  const size = sizeOf(shown);
  const fitted = fit(size, [viewer.clientWidth, viewer.clientHeight]);
  const own = { width: size[0] / devicePixelRatio, height: size[1] / devicePixelRatio, crisp: false };
  applyFit(viewer.querySelector("img"), fitted.width < own.width ? own : fitted);
}

addEventListener("resize", enlarge);
viewer.addEventListener("click", (event) => event.target.closest("a") ?? viewer.close());
