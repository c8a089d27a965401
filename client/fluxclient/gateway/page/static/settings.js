// The options by the names of the API, and how they are shown. Values are text, as typed; an image is a File.

export const SHOWN = {
  size: "Size",
  num_inference_steps: "Steps",
  guidance_scale: "Guidance",
  seed: "Seed",
  output_format: "Format",
  lora: "LoRA",
  true_cfg_scale: "True CFG",
  negative_prompt: "Negative prompt",
  image: "Begin with",
  strength: "Strength",
  priority: "Priority",
  deadline_ms: "Deadline in ms",
};

/** A setting as it is shown: of a file, its name. */
export function asText(setting) {
  return setting instanceof File ? setting.name : setting;
}

/** [width, height] of "128x64", or null of anything else. */
export function parseSize(text) {
  const match = /^([1-9]\d{0,4})x([1-9]\d{0,4})$/.exec(text ?? "");
  return match && [Number(match[1]), Number(match[2])];
}

/** For people. */
export function sizeText(text) {
  return parseSize(text)?.join("×") ?? text;
}

export function duration(ms) {
  return ms < 1000 ? `${ms.toFixed()} ms` : `${(ms / 1000).toFixed(1)} s`;
}
