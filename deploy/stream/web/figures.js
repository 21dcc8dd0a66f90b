// What the page says in words and numbers: state, age, rates.
import { sinceJudged } from "./looks.js";

const $ = (id) => document.getElementById(id);
const WORDS = { fresh: "Fresh", stale: "Stale", invalid: "Invalid", "no-signal": "No signal", ended: "Ended" };
const EVERY_MS = 100; // quicker digits cannot be read
const seconds = (ms) => `${(ms / 1000).toFixed(1)} s`;

export class Figures {
  constructor(about) {
    this.about = about;
    this.pictures = [];
    this.masks = [];
    this.ages = []; // of the last ten seconds
    this.told = 0;
    this.withoutSince = performance.now();
  }

  count(look) {
    if (look.jpeg !== null) this.pictures.push(performance.now());
    if (look.grid !== null) this.masks.push(performance.now());
  }

  tell({ said, live, frozen, changed }) {
    const now = performance.now();
    if (said.state === "fresh") this.withoutSince = now;
    if (changed) this.tellState(said, frozen);
    if (changed || now - this.told > EVERY_MS) {
      this.tellAge(said, now);
      this.tellStrip(said, live, frozen, now);
      this.tellFacts(said, live, now);
    }
    if (now - this.told > EVERY_MS) {
      this.told = now;
      this.ages.push(said.age);
      if (this.ages.length > 100) this.ages.shift();
      drawTrace($("trace"), this.ages, this.about.budget_ms);
    }
  }

  tellState(said, frozen) {
    document.body.dataset.state = said.state;
    document.body.classList.toggle("frozen", Boolean(frozen));
    document.body.classList.toggle("unlike", Boolean(said.unlike));
    const fresh = said.unlike ? "Unlike training" : "Mask is fresh";
    const word = said.state === "fresh" ? fresh : WORDS[said.state];
    $("word").textContent = frozen ? `Live: ${word.toLowerCase()}` : word;
    $("notice").hidden = !["no-signal", "ended"].includes(said.state) || Boolean(frozen);
    $("notice").firstElementChild.textContent = WORDS[said.state];
  }

  tellAge(said, now) {
    const without = now - this.withoutSince, { budget_ms } = this.about;
    $("age-value").textContent = said.age !== null ? Math.round(said.age) : (without / 1000).toFixed(1);
    $("age-unit").textContent = said.age !== null ? "ms old" : "s no mask";
    const until = `withdrawn at ${Math.round(budget_ms)} ms`;
    $("why").textContent = said.age === null ? said.reason : said.unlike ? `do not rely on it; ${until}` : until;
    $("gauge-fill").style.transform = `scaleX(${said.age === null ? 0 : Math.min(1, said.age / budget_ms)})`;
  }

  tellStrip(said, live, frozen, now) {
    const fresh = said.unlike ? "Unlike training" : "Fresh";
    const words = { fresh, "no-signal": "No signal", ended: "Ended" }[said.state] ?? `No mask: ${said.state}`;
    const still = frozen && frozen.corrected ? `Corrected by hand, picture ${frozen.id}`
      : frozen && !frozen.mask ? "Frozen picture, no mask" : "Frozen picture";
    $("strip-word").textContent = frozen ? still : words;
    $("strip-text").textContent = frozen
      ? `of ${frozen.wall.toLocaleTimeString()}, ${seconds(now - frozen.at)} ago; Space goes on`
      : said.age === null ? said.reason
      : said.unlike ? "the model was not trained on such pictures" : "";
    $("strip-age").textContent = said.age === null || frozen ? "" : `${Math.round(said.age)} ms`;
    $("rec").hidden = !(live && live.recording);
    if (said.state === "no-signal" && live && live.picture)
      $("notice-text").textContent = `${said.reason}; this picture is ${seconds(pictureAge(live, now))} old`;
    else $("notice-text").textContent = said.reason;
  }

  tellFacts(said, live, now) {
    const picture = live && live.picture, record = said.state === "fresh" ? live.record : null;
    $("fps").textContent = rate(this.pictures, now);
    $("mps").textContent = rate(this.masks, now);
    const old = picture ? pictureAge(live, now) : null;
    $("picture-age").textContent = old === null ? "–" : old > 2000 ? seconds(old) : `${Math.round(old)} ms`;
    $("picture-id").textContent = picture ? picture.id : "–";
    $("size").textContent = picture ? `${picture.size[1]} × ${picture.size[0]}` : "–";
    for (const [id, key] of [["agreement", "confidence"], ["likeness", "likeness"]])
      $(id).textContent = record && record[key] !== null ? record[key].toFixed(2) : "–";
    $("likeness").classList.toggle("unlike", Boolean(said.unlike));
    $("beat").classList.toggle("on", picture ? picture.id % 16 < 8 : false);
  }
}

function pictureAge(look, now) {
  return look.picture.age_ms + sinceJudged(look, now);
}

function rate(times, now) {
  while (times.length && times[0] < now - 2000) times.shift();
  return `${Math.round(times.length / 2)} a second`;
}

// A gap at the bottom is a time without a mask; the dotted line is the budget.
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
