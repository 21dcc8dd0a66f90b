// Requests updates from the server, and decides by the clock of this page whether a mask may still be shown.
// There is one request at a time, so a slow page gets fewer updates and never older ones.

export const LIKENESS_LIMIT = 0.5; // 99 % of the training pictures have a likeness above it
const SILENCE_MS = 1200; // the server answers at least every 400 ms

// Requests updates until the stream has ended. `onUpdate(update)` is called with every update and may return a promise;
// `onLost()` is called if there was no answer.
export async function pollUpdates(onUpdate, onLost) {
  let drawing = Promise.resolve(), previous = null;
  for (;;) {
    try {
      const requested_ms = performance.now();
      const { seen, frame, mask } = previous ?? { seen: -1, frame: -1, mask: -1 };
      const signal = AbortSignal.timeout(3000);
      const response = await fetch(`look?seen=${seen}&frame=${frame}&mask=${mask}`, { signal });
      if (!response.ok) throw new Error(response.status);
      const update = withIds(unpack(await response.arrayBuffer()));
      update.received_ms = performance.now();
      update.transfer_ms = Math.max(0, update.received_ms - requested_ms - update.waited_ms); // an upper bound: it includes the request
      previous = update;
      await drawing; // the last picture is decoded during the transfer of this one
      drawing = onUpdate(update);
      drawing.catch(() => { previous = null; });
      if (update.ended) return;
    } catch {
      previous = null; // request picture and mask again
      onLost();
      await new Promise((resolve) => setTimeout(resolve, 300));
    }
  }
}

// The JSON of a message, with its picture (`jpeg`) and its mask (`grid`), null if it has none.
export function unpack(data) {
  const length = new DataView(data).getUint32(0);
  const message = JSON.parse(new TextDecoder().decode(new Uint8Array(data, 4, length)));
  const start = 4 + length, { jpeg_bytes, mask_bytes } = message;
  message.jpeg = jpeg_bytes ? new Blob([new Uint8Array(data, start, jpeg_bytes)], { type: "image/jpeg" }) : null;
  message.grid = mask_bytes ? new Uint8Array(data, start + jpeg_bytes, mask_bytes) : null;
  message.regions = message.grid && message.lines ? regions(data, start + jpeg_bytes + mask_bytes, message) : [];
  return message;
}

// The uncertain, outer and inner regions of a mask, bytes of 0 and 1, from one bit per pixel.
function regions(data, start, { lines, record }) {
  const pixels = record.mask_size[0] * record.mask_size[1], size = Math.ceil(pixels / 8);
  return lines.map((line, i) => {
    const bits = new Uint8Array(data, start + i * size, size), grid = new Uint8Array(pixels);
    for (let k = 0; k < pixels; k++) grid[k] = (bits[k >> 3] >> (7 - (k & 7))) & 1;
    return { value: line.class, outer: line.outer, uncertain: Boolean(line.uncertain), grid };
  });
}

function withIds(update) {
  update.frame = update.picture ? update.picture.id : -1;
  update.mask = update.record.mask_size ? update.record.frame_id : -1;
  return update;
}

// State, reason and age of the mask at `now`. After a crash of the server, the mask becomes too old here.
export function maskStatus(update, now, { connected, about }) {
  if (update === null) return { state: "no-signal", reason: "waiting for EdgeMT", age: null };
  if (update.ended) return { state: "ended", reason: "the stream has ended", age: null };
  if (!connected || now - update.received_ms > SILENCE_MS)
    return { state: "no-signal", reason: "EdgeMT does not answer", age: null };
  const { record, picture } = update, since = msSinceUpdate(update, now);
  if (record.state === "no-signal" || picture === null)
    return { state: "no-signal", reason: [record.reason, record.refused].filter(Boolean).join(": "), age: null };
  if (picture.age_ms + since > about.no_signal_ms) return { state: "no-signal", reason: "no new picture", age: null };
  if (record.state !== "fresh") return { state: record.state, reason: record.reason, age: null };
  const age = record.age_ms + since;
  if (age > about.budget_ms) return { state: "stale", reason: "mask too old", age: null };
  return { state: "fresh", reason: "", age, unlike: record.likeness !== null && record.likeness < LIKENESS_LIMIT, noLines: record.contours };
}

// Upper bound of the milliseconds since the ages in `update` were measured.
export function msSinceUpdate(update, now) {
  return now - update.received_ms + update.transfer_ms;
}
