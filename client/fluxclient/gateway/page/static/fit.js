// How large a picture is shown: each of its pixels as one of the screen, or as a whole number of them.

const TINY = 256; // edge of pictures whose pixels may be seen; larger ones are photographs, to be smoothed

/** CSS pixels, for a picture of `size` in a room of `room`; one that is larger than that is scaled into it. */
export function fit([width, height], [roomWidth, roomHeight], ratio = devicePixelRatio) {
  const most = Math.min(roomWidth / width, roomHeight / height);
  const whole = Math.floor(most * ratio) / ratio;
  const scale = whole > 0 ? whole : most;
  return { width: width * scale, height: height * scale, crisp: scale >= 2 && Math.max(width, height) <= TINY };
}

export function applyFit(element, { width, height, crisp }) {
  element.style.width = `${width}px`;
  element.style.height = `${height}px`;
  element.classList.toggle("crisp", crisp);
}
