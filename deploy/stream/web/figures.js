// The texts and numbers of the page: state, age, rates.
import { msSinceUpdate } from "./looks.js";

const $ = (id) => document.getElementById(id);
const STATE_NAMES = { fresh: "Fresh", stale: "Stale", invalid: "Invalid", "no-signal": "No signal", ended: "Ended" };
const INTERVAL_MS = 100; // faster changes of digits cannot be read
const seconds = (ms) => `${(ms / 1000).toFixed(1)} s`;

export class Figures {
  constructor(about) {
    this.about = about;
    this.pictures = [];
    this.masks = [];
    this.ages = []; // of the last ten seconds
    this.updated_ms = 0;
    this.lastFresh_ms = performance.now();
  }

  count(update) {
    if (update.jpeg !== null) this.pictures.push(performance.now());
    if (update.grid !== null) this.masks.push(performance.now());
  }

  show({ status, live, frozen, changed }) {
    const now = performance.now();
    if (status.state === "fresh") this.lastFresh_ms = now;
    if (changed) this.showState(status, frozen);
    if (changed || now - this.updated_ms > INTERVAL_MS) {
      this.showAge(status, now);
      this.showStrip(status, live, frozen, now);
      this.showFacts(status, live, now);
    }
    if (now - this.updated_ms > INTERVAL_MS) {
      this.updated_ms = now;
      this.ages.push(status.age);
      if (this.ages.length > 100) this.ages.shift();
      drawTrace($("trace"), this.ages, this.about.budget_ms);
    }
  }

  showState(status, frozen) {
    document.body.dataset.state = status.state;
    document.body.classList.toggle("frozen", Boolean(frozen));
    document.body.classList.toggle("unlike", Boolean(status.unlike));
    const fresh = status.unlike ? "Unlike training" : "Mask is fresh";
    const name = status.state === "fresh" ? fresh : STATE_NAMES[status.state];
    $("word").textContent = frozen ? `Live: ${name.toLowerCase()}` : name;
    $("notice").hidden = !["no-signal", "ended"].includes(status.state) || Boolean(frozen);
    $("notice").firstElementChild.textContent = STATE_NAMES[status.state];
    const { claim, uncertain_above } = this.about, dropped = Boolean(status.noLines);
    $("uncertain").hidden = uncertain_above === null;
    if (uncertain_above !== null) $("uncertain").lastElementChild.textContent = "Hatched: uncertain. The network estimates "
      + `that here the class of a pixel is wrong with a probability of ${Math.round(100 * uncertain_above)} % or more.`;
    $("claim").hidden = !claim;
    $("claim").classList.toggle("dropped", dropped);
    $("claim").lastElementChild.textContent = dropped ? `No dashed and thin line: ${status.noLines}.`
      : `${(claim || "").replace(/^./, (letter) => letter.toUpperCase())}. A single patient can still be outside.`;
  }

  showAge(status, now) {
    const noMask_ms = now - this.lastFresh_ms, { budget_ms } = this.about;
    $("age-value").textContent = status.age !== null ? Math.round(status.age) : (noMask_ms / 1000).toFixed(1);
    $("age-unit").textContent = status.age !== null ? "ms old" : "s no mask";
    const until = `withdrawn at ${Math.round(budget_ms)} ms`;
    $("why").textContent = status.age === null ? status.reason : status.unlike ? `do not rely on it; ${until}` : until;
    $("gauge-fill").style.transform = `scaleX(${status.age === null ? 0 : Math.min(1, status.age / budget_ms)})`;
  }

  showStrip(status, live, frozen, now) {
    const fresh = status.unlike ? "Unlike training" : "Fresh";
    const liveText = { fresh, "no-signal": "No signal", ended: "Ended" }[status.state] ?? `No mask: ${status.state}`;
    const frozenText = frozen && frozen.corrected ? `Corrected by hand, picture ${frozen.id}`
      : frozen && !frozen.mask ? "Frozen picture, no mask" : "Frozen picture";
    $("strip-word").textContent = frozen ? frozenText : liveText;
    $("strip-text").textContent = frozen
      ? `of ${frozen.wall.toLocaleTimeString()}, ${seconds(now - frozen.at)} ago; Space continues`
      : status.age === null ? status.reason
      : status.unlike ? "the model was not trained on such pictures" : "";
    $("strip-age").textContent = status.age === null || frozen ? "" : `${Math.round(status.age)} ms`;
    $("rec").hidden = !(live && live.recording);
    if (status.state === "no-signal" && live && live.picture)
      $("notice-text").textContent = `${status.reason}; this picture is ${seconds(pictureAge(live, now))} old`;
    else $("notice-text").textContent = status.reason;
  }

  showFacts(status, live, now) {
    const picture = live && live.picture, record = status.state === "fresh" ? live.record : null;
    $("fps").textContent = rate(this.pictures, now);
    $("mps").textContent = rate(this.masks, now);
    const age_ms = picture ? pictureAge(live, now) : null;
    $("picture-age").textContent = age_ms === null ? "–" : age_ms > 2000 ? seconds(age_ms) : `${Math.round(age_ms)} ms`;
    $("picture-id").textContent = picture ? picture.id : "–";
    $("size").textContent = picture ? `${picture.size[1]} × ${picture.size[0]}` : "–";
    for (const [id, key] of [["agreement", "confidence"], ["likeness", "likeness"]])
      $(id).textContent = record && record[key] !== null ? record[key].toFixed(2) : "–";
    const delay_ms = record ? record.vote_delay_ms : null;
    if (delay_ms) [$("vote-row").hidden, $("vote").textContent] = [false, `+ ${Math.round(delay_ms)} ms`];
    const patient = live && live.patient;
    if (patient) {
      $("head-row").hidden = false;
      $("head").textContent = record && record.adapted ? "adapted" : patient.state === "shadow" ? "shipped, a new one on trial" : "shipped";
      $("head").title = patient.note;
    }
    $("likeness").classList.toggle("unlike", Boolean(status.unlike));
    $("beat").classList.toggle("on", picture ? picture.id % 16 < 8 : false);
  }
}

function pictureAge(update, now) {
  return update.picture.age_ms + msSinceUpdate(update, now);
}

function rate(times, now) {
  while (times.length && times[0] < now - 2000) times.shift();
  return `${Math.round(times.length / 2)} a second`;
}

// The age of the mask over the last ten seconds. A mark at the bottom means no mask; the dotted line is the budget.
function drawTrace(canvas, ages, budget) {
  const ratio = devicePixelRatio, width = canvas.clientWidth, height = canvas.clientHeight, pen = canvas.getContext("2d");
  if (canvas.width !== Math.round(width * ratio)) [canvas.width, canvas.height] = [width * ratio, height * ratio].map(Math.round);
  const y = (age) => height - 2 - (height - 4) * Math.min(1, age / (1.25 * budget)), step = width / 100;
  pen.setTransform(ratio, 0, 0, ratio, 0, 0);
  pen.clearRect(0, 0, width, height);
  [pen.strokeStyle, pen.lineWidth] = ["#4d5b68", 1];
  pen.setLineDash([3, 4]);
  pen.beginPath();
  pen.moveTo(0, y(budget));
  pen.lineTo(width, y(budget));
  pen.stroke();
  ages.forEach((age, i) => {
    pen.fillStyle = age === null ? "#ffc247" : "#43d9b8";
    pen.fillRect(width - (ages.length - i) * step, age === null ? height - 4 : y(age) - 1.5, step + 0.4, 3);
  });
}
