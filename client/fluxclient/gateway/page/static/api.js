// How pictures are asked for: a request each, whose answer is a stream of events.

const NUMBERS = new Set([
  "num_inference_steps",
  "guidance_scale",
  "seed",
  "true_cfg_scale",
  "strength",
  "priority",
  "deadline_ms",
]);
const JSON_NUMBER = /^-?(0|[1-9]\d*)(\.\d+)?$/;
const PREVIEWS = 3; // most that the API sends

/** What the server says is wrong; `param` is the option at fault, if it is one. */
export class Fault extends Error {
  constructor(message, { param = null, status = 0 } = {}) {
    const [plain, id = ""] = message.split(/\s*\[request ([^\]]*)\]$/);
    super(plain);
    this.requestId = id;
    this.param = param;
    this.status = status;
  }
}

/** The events of one picture. */
export async function* drawn(settings, signal) {
  const headers = settings.image ? {} : { "Content-Type": "application/json" }; // of a form, the browser sets it
  const key = sessionStorage.getItem("key");
  if (key) headers.Authorization = `Bearer ${key}`;
  const [path, body] = settings.image ? ["edits", formBody(settings)] : ["generations", jsonBody(settings)];
  const response = await fetch(`v1/images/${path}`, { method: "POST", headers, body, signal });
  if (response.ok) yield* serverSentEvents(response.body);
  else {
    const { error } = await response.json().catch(() => ({}));
    const message = error?.message ?? `HTTP ${response.status} ${response.statusText}`;
    throw new Fault(message, { param: error?.param, status: response.status });
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
