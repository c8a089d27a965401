// The head: which model is served, and what the server is at.

const EVERY_MS = { ready: 5000, busy: 1500, gone: 3000 };
const SOON_MS = 1000; // until a server tells of what has just begun or ended

const $ = (id) => document.getElementById(id);
let timer = null;
let asking = false;

/** Looks now, and from now on every few seconds while the page is seen. Returns what makes it look soon. */
export function watchServer(tell) {
  const look = async () => {
    clearTimeout(timer);
    if (asking || document.hidden) return;
    asking = true;
    const state = await ask();
    asking = false;
    const kind = say(state);
    if (state) tell(state);
    timer = setTimeout(look, EVERY_MS[kind]);
  };
  document.addEventListener("visibilitychange", look);
  look();
  return () => {
    clearTimeout(timer);
    timer = setTimeout(look, SOON_MS);
  };
}

/** null where the gateway does not answer. */
async function ask() {
  try {
    const response = await fetch("page/state");
    return response.ok ? await response.json() : null;
  } catch {
    return null;
  }
}

function say(state) {
  if (state) $("model").textContent = state.model;
  const [kind, text] = described(state);
  $("server").dataset.kind = kind;
  const place = $("server").firstElementChild;
  if (place.textContent !== text) place.textContent = text;
  return kind;
}

function described(state) {
  if (!state) return ["gone", "Gateway not reached"];
  if (!state.live) return ["gone", "Server not reached"];
  if (!state.ready) return ["gone", "Model not ready"];
  const { running, waiting } = state;
  if (!running && !waiting) return ["ready", "Ready"];
  return ["busy", `Drawing ${running}${waiting ? `, ${waiting} waiting` : ""}`];
}
