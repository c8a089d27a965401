// The picture to begin with: dropped anywhere, pasted, or chosen.

const $ = (id) => document.getElementById(id);
const field = $("image");
const thumbnail = $("thumbnail");
const HINT = $("file").textContent;

/** Puts a file, or none, into the field as if it had been chosen there. */
export function choose(file) {
  const chosen = new DataTransfer();
  if (file) chosen.items.add(file);
  field.files = chosen.files;
  field.dispatchEvent(new Event("input", { bubbles: true }));
}

function showChosen() {
  const [file] = field.files;
  URL.revokeObjectURL(thumbnail.src);
  thumbnail.hidden = true; // until it turns out to be a picture
  if (file) thumbnail.src = URL.createObjectURL(file);
  $("drop").classList.toggle("filled", Boolean(file));
  $("file").textContent = file?.name ?? HINT;
  $("no-image").hidden = $("with-image").hidden = !file;
}

thumbnail.addEventListener("load", () => {
  thumbnail.hidden = false;
  $("file").textContent = `${thumbnail.naturalWidth} × ${thumbnail.naturalHeight}, ${field.files[0].name}`;
});
field.addEventListener("input", showChosen);
$("no-image").addEventListener("click", () => {
  choose(null);
  field.focus();
});

function fileOf(transfer) {
  return [...(transfer?.files ?? [])][0];
}

// Anywhere: a browser would leave the page for a file that is dropped beside the area.
addEventListener("dragover", (event) => {
  if (!event.dataTransfer.types.includes("Files")) return;
  event.preventDefault();
  $("drop").classList.add("over");
});
for (const type of ["drop", "dragend"]) addEventListener(type, () => $("drop").classList.remove("over"));
addEventListener("dragleave", (event) => event.relatedTarget ?? $("drop").classList.remove("over"));
addEventListener("drop", (event) => {
  const file = fileOf(event.dataTransfer);
  if (!file) return;
  event.preventDefault();
  choose(file);
});
addEventListener("paste", (event) => {
  const file = fileOf(event.clipboardData);
  if (!file) return; // text goes where it is pasted
  event.preventDefault();
  choose(file);
});
