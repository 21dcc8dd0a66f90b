// Looks at the board: asking for the next one, and judging what may still be shown of it by this page's own clock.
// One question is under way at a time, so a slow page gets fewer looks and never older ones.

export const ALIKE = 0.5; // of 99 % of the training pictures the likeness is above
const SILENCE_MS = 1200; // an answer comes at least every 400 ms

// Asks until the stream has ended. `take(look)` is given every look, and may take its time; `lost()` is called when no answer came.
export async function follow(take, lost) {
  let drawing = Promise.resolve(), have = null;
  for (;;) {
    try {
      const asked = performance.now();
      const { seen, frame, mask } = have ?? { seen: -1, frame: -1, mask: -1 };
      const signal = AbortSignal.timeout(3000);
      const response = await fetch(`look?seen=${seen}&frame=${frame}&mask=${mask}`, { signal });
      if (!response.ok) throw new Error(response.status);
      const look = asLook(unpack(await response.arrayBuffer()));
      look.came = performance.now();
      look.under_way_ms = Math.max(0, look.came - asked - look.waited_ms); // at most: it counts the question as well
      have = look;
      await drawing; // the picture before is decoded while this one was on its way
      drawing = take(look);
      drawing.catch(() => { have = null; });
      if (look.ended) return;
    } catch {
      have = null; // everything is asked for anew
      lost();
      await new Promise((resolve) => setTimeout(resolve, 300));
    }
  }
}

// What was said, with its picture and its mask, if they came.
export function unpack(data) {
  const length = new DataView(data).getUint32(0);
  const said = JSON.parse(new TextDecoder().decode(new Uint8Array(data, 4, length)));
  const start = 4 + length;
  said.jpeg = said.jpeg_bytes ? new Blob([new Uint8Array(data, start, said.jpeg_bytes)], { type: "image/jpeg" }) : null;
  said.grid = said.mask_bytes ? new Uint8Array(data, start + said.jpeg_bytes, said.mask_bytes) : null;
  return said;
}

function asLook(look) {
  look.frame = look.picture ? look.picture.id : -1;
  look.mask = look.record.mask_size ? look.record.frame_id : -1;
  return look;
}

// State, reason and age of the mask at `now`. A server that died cannot leave an old mask standing.
export function judged(look, now, { answers, about }) {
  if (look === null) return { state: "no-signal", reason: "waiting for EdgeMT", age: null };
  if (look.ended) return { state: "ended", reason: "the stream has ended", age: null };
  if (!answers || now - look.came > SILENCE_MS)
    return { state: "no-signal", reason: "EdgeMT does not answer", age: null };
  const { record, picture } = look, since = sinceJudged(look, now);
  if (record.state === "no-signal" || picture === null)
    return { state: "no-signal", reason: [record.reason, record.refused].filter(Boolean).join(": "), age: null };
  if (picture.age_ms + since > about.no_signal_ms) return { state: "no-signal", reason: "no new picture", age: null };
  if (record.state !== "fresh") return { state: record.state, reason: record.reason, age: null };
  const age = record.age_ms + since;
  if (age > about.budget_ms) return { state: "stale", reason: "mask too old", age: null };
  return { state: "fresh", reason: "", age, unlike: record.likeness !== null && record.likeness < ALIKE };
}

// Milliseconds that an age in `look` has to be raised by, at most.
export function sinceJudged(look, now) {
  return now - look.came + look.under_way_ms;
}
