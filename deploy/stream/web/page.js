// The live page: draws the newest picture, and its mask as long as it is fresh. This is checked before every repaint.
import { contours, filling, regionOutline } from "./contour.js";
import { Correct } from "./correct.js";
import { Figures } from "./figures.js";
import { pollUpdates, maskStatus } from "./looks.js";

const $ = (id) => document.getElementById(id);
const video = $("video"), overlay = $("overlay");
const hidden = new Set(); // classes
const MAX_FROZEN_AGE_MS = 2000;
const now = () => performance.now();

let about = { classes: [], budget_ms: 100, no_signal_ms: 500, name: "", model: "" };
let connected = false;
let live = null; // the newest update
let shown = null; // the update on the canvas: the live one, or the frozen one
let lastMasked = null; // the newest picture with a mask, and that mask
let frozen = null;
let visible = true, dirty = true, figures = null, correct = null, lastKey = "";

const currentStatus = () => maskStatus(live, now(), { connected, about });

// Picture, mask and status change together.
async function takeUpdate(update) {
  const before = live;
  update.bitmap = update.jpeg !== null ? await createImageBitmap(update.jpeg) : before ? before.bitmap : null;
  if (update.grid !== null) {
    const [height, width] = update.record.mask_size;
    const paths = contours(update.grid, height, width, about.overlapping);
    update.drawn = { id: update.mask, grid: update.grid, height, width, paths };
    const regions = update.regions.map((r) => ({ ...r, path: regionOutline(r.grid, height, width) }));
    update.drawn.bands = regions.filter((r) => !r.uncertain);
    update.drawn.uncertain = regions.find((r) => r.uncertain && r.grid.includes(1)) ?? null;
  } else update.drawn = before && before.drawn && before.drawn.id === update.mask ? before.drawn : null;
  figures.count(update);
  live = update;
  connected = true;
  if (!frozen) { shown = update; dirty = true; }
  const status = currentStatus(), old = lastMasked;
  if (maskToShow(status) && update.bitmap)
    lastMasked = { bitmap: update.bitmap, mask: update.drawn, status, id: update.frame, at: now(), wall: new Date() };
  for (const item of [before, old]) release(item && item.bitmap);
}

function release(bitmap) {
  if (bitmap && ![live, shown, lastMasked].some((item) => item && item.bitmap === bitmap)) bitmap.close();
}

function paint() {
  const status = currentStatus(), mask = frozen ? frozen.mask : maskToShow(status);
  const key = `${status.state}|${status.reason}|${status.unlike}|${status.noLines}|${mask ? mask.id : ""}|${Boolean(frozen)}`;
  if (dirty || key !== lastKey) {
    drawVideo();
    drawMask(mask);
  }
  figures.show({ status, live, frozen, changed: key !== lastKey });
  [dirty, lastKey] = [false, key];
  requestAnimationFrame(paint);
}

const maskToShow = (status) => (status.state === "fresh" && live ? live.drawn : null);

function drawVideo() {
  if (!shown || !shown.bitmap) return;
  const { width, height } = shown.bitmap;
  if (video.width !== width || video.height !== height) { [video.width, video.height] = [width, height]; fit(); }
  video.getContext("2d", { alpha: false }).drawImage(shown.bitmap, 0, 0);
}

function drawMask(mask) {
  const pen = overlay.getContext("2d");
  pen.clearRect(0, 0, overlay.width, overlay.height);
  const ratio = overlay.width / overlay.clientWidth;
  const unlike = (frozen ? frozen.status : currentStatus()).unlike && !(frozen && frozen.corrected);
  if (mask && visible) paintMask(pen, mask, overlay.width, overlay.height, ratio, unlike);
  if (frozen && correct) correct.marks(pen, overlay.width, overlay.height, ratio);
}

// The mask of a picture that differs from the training pictures has dashed lines and no filling.
function paintMask(pen, mask, width, height, ratio, unlike = false) {
  if (!unlike) return drawn(pen, mask, width, height, ratio, Number($("opacity").value) / 100);
  const sheet = new OffscreenCanvas(width, height), broken = sheet.getContext("2d");
  drawn(broken, mask, width, height, ratio, 0);
  [broken.globalCompositeOperation, broken.lineWidth] = ["destination-out", 7 * ratio];
  broken.beginPath();
  for (let x = -height; x < width; x += 20 * ratio) { broken.moveTo(x, 0); broken.lineTo(x + height, height); }
  for (let x = 0; x < width + height; x += 20 * ratio) { broken.moveTo(x, 0); broken.lineTo(x - height, height); }
  broken.stroke();
  pen.drawImage(sheet, 0, 0);
}

function drawn(pen, mask, width, height, ratio, opacity) {
  const colours = about.classes.map((item) => item.colour);
  if (opacity > 0) {
    pen.globalAlpha = opacity;
    const picture = filling(mask.grid, mask.height, mask.width, colours, hidden, about.overlapping);
    pen.drawImage(picture, 0, 0, width, height);
    pen.globalAlpha = 1;
  }
  if (mask.uncertain) hatch(pen, mask.uncertain.path, mask, width, height, ratio);
  pen.lineJoin = pen.lineCap = "round";
  const placed = (path) => {
    const scaled = new Path2D();
    scaled.addPath(path, new DOMMatrix([width / mask.width, 0, 0, height / mask.height, 0, 0]));
    return scaled;
  };
  for (const { value, outer, path } of mask.bands ?? []) { // outer dashed, inner thin
    if (hidden.has(value)) continue;
    const scaled = placed(path);
    if (outer) pen.setLineDash([9 * ratio, 8 * ratio]);
    for (const [colour, thick] of [["#0008", 3], [colours[value - 1] ?? "#fff", 1.4]]) {
      [pen.strokeStyle, pen.lineWidth] = [colour, thick * ratio];
      pen.stroke(scaled);
    }
    pen.setLineDash([]);
  }
  for (const [value, path] of mask.paths) {
    if (hidden.has(value)) continue;
    const scaled = placed(path);
    for (const [colour, thick] of [["#000a", 5], [colours[value - 1] ?? "#fff", 2.6]]) {
      [pen.strokeStyle, pen.lineWidth] = [colour, thick * ratio];
      pen.stroke(scaled);
    }
  }
}

// Diagonal lines, white with a black rim, in the region where the class is uncertain.
function hatch(pen, path, mask, width, height, ratio) {
  const scaled = new Path2D();
  scaled.addPath(path, new DOMMatrix([width / mask.width, 0, 0, height / mask.height, 0, 0]));
  pen.save();
  pen.clip(scaled, "evenodd");
  pen.beginPath();
  for (let x = 0; x < width + height; x += 9 * ratio) { pen.moveTo(x, 0); pen.lineTo(x - height, height); }
  for (const [colour, thick] of [["#000a", 3.4], ["#fff", 1.5]]) {
    [pen.strokeStyle, pen.lineWidth] = [colour, thick * ratio];
    pen.stroke();
  }
  pen.restore();
}

// The picture as large as possible, the overlay with the resolution of the screen.
function fit() {
  const room = $("room"), [width, height] = [video.width || 16, video.height || 9];
  const scale = Math.min((room.clientWidth - 12) / width, (room.clientHeight - 12) / height);
  for (const canvas of [video, overlay]) {
    canvas.style.width = `${Math.floor(width * scale)}px`;
    canvas.style.height = `${Math.floor(height * scale)}px`;
  }
  overlay.width = Math.round(overlay.clientWidth * devicePixelRatio);
  overlay.height = Math.round(overlay.clientHeight * devicePixelRatio);
  dirty = true;
}

function freeze() {
  if (!frozen && !(shown && shown.bitmap)) return;
  if (frozen) {
    const { bitmap } = shown;
    frozen = null;
    if (live) shown = live;
    release(bitmap);
  } else frozen = frozenView();
  if (correct) frozen ? correct.begin(frozen) : correct.end();
  $("freeze").setAttribute("aria-pressed", Boolean(frozen));
  dirty = true;
}

// The picture to freeze and its mask; without a mask at this moment, the last picture that had one.
function frozenView() {
  const status = currentStatus(), mask = maskToShow(status);
  if (mask || !lastMasked || now() - lastMasked.at > MAX_FROZEN_AGE_MS)
    return { at: now(), wall: new Date(), status, mask, id: shown.frame };
  shown = { ...shown, bitmap: lastMasked.bitmap, frame: lastMasked.id };
  return { at: lastMasked.at, wall: lastMasked.wall, status: lastMasked.status, mask: lastMasked.mask, id: lastMasked.id };
}

// Replaces the frozen picture or its mask: a mask is corrected on the picture that it was computed from.
function changeFrozen({ bitmap, ...change }) {
  if (!frozen) return;
  Object.assign(frozen, change);
  if (bitmap) shown = { ...shown, bitmap, frame: frozen.id };
  dirty = true;
}

// Downloads the picture in the browser; the server stores nothing.
async function snapshot() {
  if (!shown || !shown.bitmap) return;
  const status = frozen ? frozen.status : currentStatus(), mask = frozen ? frozen.mask : maskToShow(status);
  const strip = Math.max(26, Math.round(video.height / 26)), id = shown.frame;
  const sheet = new OffscreenCanvas(video.width, video.height + strip), pen = sheet.getContext("2d");
  pen.drawImage(video, 0, 0);
  const unlike = status.unlike && !(frozen && frozen.corrected);
  if (mask && visible) paintMask(pen, mask, video.width, video.height, Math.max(1, video.width / 900), unlike);
  pen.fillStyle = "#0e1419";
  pen.fillRect(0, video.height, video.width, strip);
  [pen.fillStyle, pen.font, pen.textBaseline] = ["#e3ebf1", `${Math.round(strip * 0.5)}px sans-serif`, "middle"];
  const caption = [new Date().toLocaleString(), `picture ${id}`, ...(frozen && frozen.corrected ? [] : [status.state]),
    frozen && frozen.corrected ? "mask corrected by hand" : status.age === null ? status.reason : `mask ${Math.round(status.age)} ms old`,
    ...(unlike ? ["unlike training"] : []), ...(visible ? [] : ["masks hidden"]), ...(frozen ? ["frozen"] : []), about.model];
  pen.fillText(caption.join("   "), 10, video.height + strip / 2);
  const link = document.createElement("a");
  link.href = URL.createObjectURL(await sheet.convertToBlob({ type: "image/png" }));
  link.download = `edgemt-${id}.png`;
  link.click();
  setTimeout(() => URL.revokeObjectURL(link.href), 5000);
}

function toggleMasks() {
  visible = !visible;
  $("masks").setAttribute("aria-pressed", visible);
  $("masks").firstChild.textContent = visible ? "Masks " : "Hidden ";
  dirty = true;
}

function toggleClass(value, button) {
  if (!hidden.delete(value)) hidden.add(value);
  button.setAttribute("aria-pressed", !hidden.has(value));
  $("legend").children[value - 1].classList.toggle("hidden", hidden.has(value));
  dirty = true;
}

function toggleFullscreen() { document.fullscreenElement ? document.exitFullscreen() : $("stage").requestFullscreen(); }

function changeOpacity(change) {
  $("opacity").value = Number($("opacity").value) + change;
  $("opacity-value").textContent = `${$("opacity").value} %`;
  dirty = true;
}

function bindControls() {
  for (const [id, act] of Object.entries({ freeze, snapshot, masks: toggleMasks, full: toggleFullscreen })) $(id).onclick = act;
  $("opacity").oninput = () => changeOpacity(0);
  new ResizeObserver(fit).observe($("room"));
  document.addEventListener("visibilitychange", () => { if (document.hidden) drawMask(null); dirty = true; });
  const keys = { " ": freeze, s: snapshot, m: toggleMasks, f: toggleFullscreen, ArrowUp: () => changeOpacity(5), ArrowDown: () => changeOpacity(-5) };
  if (correct) Object.assign(keys, { z: () => correct.undo(), Enter: () => correct.saveCase() });
  if (correct && about.correct.adapt) {
    Object.assign(keys, { l: () => correct.learn(), r: () => correct.useShipped() });
    $("use-shipped").hidden = false;
    $("use-shipped").onclick = keys.r;
  }
  addEventListener("keydown", (event) => {
    if (event.ctrlKey || event.metaKey || event.altKey) return;
    const button = $("classes").querySelectorAll("button")[Number(event.key) - 1];
    const act = keys[event.key.length === 1 ? event.key.toLowerCase() : event.key] ?? (button && (() => button.click()));
    if (!act) return;
    event.preventDefault();
    if (!event.repeat || event.key.startsWith("Arrow")) act();
  });
}

// An entry of the legend of the full screen.
function marked(kind, text) {
  const [item, swatch] = ["li", "i"].map((tag) => document.createElement(tag));
  swatch.className = kind;
  item.append(swatch, text);
  $("legend").append(item);
}

function listClasses() {
  about.classes.forEach(({ name, colour }, i) => {
    const [item, button, swatch, key] = ["li", "button", "i", "kbd"].map((tag) => document.createElement(tag));
    swatch.style.setProperty("--c", colour);
    key.textContent = i < 9 ? i + 1 : "";
    button.type = "button";
    button.setAttribute("aria-pressed", true);
    button.append(swatch, name, key);
    button.onclick = () => toggleClass(i + 1, button);
    item.append(button);
    $("classes").append(item);
    const entry = document.createElement("li");
    entry.append(swatch.cloneNode(), name);
    $("legend").append(entry);
  });
  if (about.uncertain_above !== null) marked("hatch", "uncertain");
  if (about.claim) { marked("dashes", "encloses the structure"); marked("thin", "lies within it"); }
}

about = await (await fetch("about.json")).json();
document.title = `${about.name || "EdgeMT"} live`;
$("model").textContent = about.model;
$("source").textContent = $("source").title = about.source || "–";
figures = new Figures(about);
if (about.correct) correct = new Correct(about, $("frame"), { show: changeFrozen, redraw: () => { dirty = true; } });
listClasses();
changeOpacity(0);
bindControls();
fit();
requestAnimationFrame(paint);
pollUpdates(takeUpdate, () => { connected = false; });
