// Sizes as choices: a shape, and how large. Reckoned from the server's default size, within its largest.

const MULTIPLE = 16; // of which FLUX's edges are
const LEAST = 64; // smaller ones show nothing
const SHAPES = ["1:1", "4:3", "3:4", "16:9", "9:16"];
const SCALES = [0.5, 0.75, 1, 1.5, 2, 3, 4]; // of the default's edges
const OWN = "own";

const $ = (id) => document.getElementById(id);
const select = $("size");
const own = $("own_size");
let reference = null; // { usual: [width, height], most: [width, height] } once the server is known
let shapes = [];
let scale = 1;

/** Offers what a server can draw; both are [width, height]. */
export function offerSizes(usual, most) {
  if (reference && `${reference.usual},${reference.most}` === `${usual},${most}`) return;
  const first = reference === null;
  reference = { usual, most };
  const known = SHAPES.some((shape) => sizesOf(shape).some((option) => option.text === usual.join("x")));
  shapes = known ? SHAPES : [usual.join(":"), ...SHAPES];
  $("shapes").querySelector(".choices").replaceChildren(...shapes.map(choice));
  $("shapes").hidden = false;
  own.placeholder = usual.join("x");
  setSize(first ? "" : chosenSize());
}

own.addEventListener("change", toggle);

/** "128x128"; "": the server's default. Each change of it is told by an event "size". */
export function chosenSize() {
  return select.value === OWN ? own.value.trim() : select.value;
}

export function setSize(text) {
  const wanted = text || (reference?.usual.join("x") ?? "");
  for (const shape of shapes) {
    const found = sizesOf(shape).find((option) => option.text === wanted);
    if (!found) continue;
    scale = found.scale;
    $("shapes").querySelector(`[value="${shape}"]`).checked = true;
    return fill(shape);
  }
  select.value = wanted && OWN;
  own.value = wanted;
  toggle();
}

/** The field that has the size now. */
export function sizeField() {
  return select.value === OWN ? own : select;
}

function sizesOf(shape) {
  const [across, down] = shape.split(":").map(Number);
  const edge = Math.sqrt(reference.usual[0] * reference.usual[1]);
  const found = new Map();
  for (const scale of SCALES) {
    const long = Math.max(across / down, down / across);
    const shorter = rounded((edge * scale) / Math.sqrt(long));
    const longer = rounded(shorter * long);
    const [width, height] = across > down ? [longer, shorter] : [shorter, longer];
    if (shorter < LEAST || width > reference.most[0] || height > reference.most[1]) continue;
    found.set(`${width}x${height}`, { scale, text: `${width}x${height}`, label: `${width} × ${height}` });
  }
  return [...found.values()];
}

function rounded(edge) {
  return MULTIPLE * Math.round(edge / MULTIPLE);
}

function choice(shape) {
  const label = document.createElement("label");
  const input = Object.assign(document.createElement("input"), { type: "radio", name: "shape", value: shape });
  const icon = document.createElement("i");
  icon.style.aspectRatio = shape.replace(":", " / ");
  const [across, down] = shape.split(":").map(Number);
  icon.style[across >= down ? "width" : "height"] = "1.125rem";
  label.append(input, icon, SHAPES.includes(shape) ? shape : "default");
  input.addEventListener("change", () => fill(shape));
  return label;
}

/** The sizes of a shape, with the one that is nearest to the last selected. */
function fill(shape) {
  const options = sizesOf(shape);
  const other = select.querySelector(`[value="${OWN}"]`);
  select.replaceChildren(...options.map(({ label, text }) => new Option(label, text)), other);
  const distance = (option) => Math.abs(Math.log(option.scale / scale));
  select.value = options.toSorted((one, two) => distance(one) - distance(two))[0]?.text ?? OWN;
  toggle();
}

function toggle() {
  const isOwn = select.value === OWN;
  $("with-own-size").hidden = !isOwn;
  if (isOwn) for (const input of $("shapes").querySelectorAll("input")) input.checked = false;
  select.dispatchEvent(new Event("size", { bubbles: true }));
}

select.addEventListener("change", () => {
  scale = shapes.flatMap(sizesOf).find((option) => option.text === select.value)?.scale ?? scale;
  toggle();
});
