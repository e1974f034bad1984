// The live page: one sample a second comes by server-sent events; everything drawn is drawn from the samples kept here.
"use strict";

const KEPT = 300;
const TOP_PARTS = 4;
const SPAN = 60; // least seconds of the time axis
const FEW = 1000; // rows of a source before its click-through says anything: clicks come at once, the untouched after a window

const byId = (id) => document.getElementById(id);
const css = (name) => getComputedStyle(document.documentElement).getPropertyValue(name).trim();
const round = (value, digits) => (value == null ? "–" : value.toLocaleString("en", { maximumFractionDigits: digits }));
const percent = (value) => (value == null ? "–" : (100 * value).toFixed(1) + " %");
const signed = (value) => (value == null ? "–" : (value < 0 ? "−" : "+") + Math.abs(Math.round(100 * value)) + " %");
const ms = (seconds) => (seconds == null ? null : 1000 * seconds);

const CHARTS = {
  ctr: { lines: (s) => pick(s.sources, (of) => (of.rows < FEW ? null : of.ctr)), show: percent, axis: (v) => Math.round(1000 * v) / 10 + "%", floor: 0 },
  against: { lines: (s) => (control(s) ? { ["against " + control(s)]: against(s) } : {}), show: signed, axis: (v) => Math.round(100 * v) + "%", include: 0 },
  auc: { lines: (s) => pick(s.learners, (of) => of.auc), show: (v) => (v == null ? "–" : v.toFixed(3)), axis: (v) => v.toFixed(2) },
  rate: { lines: (s) => ({ rows: s.learn_rate }), show: (v) => round(v, 0), axis: (v) => round(v, 0), floor: 0 },
  fresh: {
    lines: (s) => ({ p50: ms(s.freshness.p50), p99: ms(s.freshness.p99) }),
    show: (v) => (v == null ? "–" : round(v, 1) + " ms"), axis: (v) => round(v, 1), floor: 0,
  },
};

let samples = [];

function pick(named, read) {
  return Object.fromEntries(Object.entries(named || {}).map(([name, of]) => [name, read(of)]));
}

// The control group: visitors who get a retriever's own order. The one shown most, or the demonstration's.
function control(sample) {
  if (sample.demo) return sample.demo.control;
  const groups = Object.entries(sample.sources || {}).filter(([name, of]) => learners.indexOf(name) > 0 && of.rows >= FEW);
  return groups.sort((a, b) => b[1].rows - a[1].rows)[0]?.[0];
}

// How much more is clicked in the ranker's order than in the control group: 0.38 for 38 % more.
function against(sample) {
  if (sample.demo) return sample.demo.against_control ?? null;
  const own = sample.sources?.[learners[0]], others = sample.sources?.[control(sample)];
  return own && own.rows >= FEW && others?.ctr ? own.ctr / others.ctr - 1 : null;
}

// ---------------------------------------------------------------- charts

class Chart {
  constructor(figure, plan) {
    this.figure = figure;
    this.plan = plan;
    this.names = [];
    this.legend = figure.appendChild(document.createElement("ul"));
    this.legend.className = "legend";
    this.box = figure.appendChild(document.createElement("div"));
    this.box.setAttribute("role", "img");
    this.plot = null;
    this.marks = [];
    new ResizeObserver(() => this.plot && this.plot.setSize(this.size())).observe(this.box);
  }

  size() {
    return { width: Math.max(this.box.clientWidth, 200), height: 175 };
  }

  rebuild() {
    if (this.plot) this.plot.destroy();
    const quiet = css("--quiet"), line = css("--line");
    const axis = { stroke: quiet, grid: { stroke: line, width: 1 }, ticks: { stroke: line, width: 1 } };
    const { floor, include } = this.plan;
    const range = (min, max) => uPlot.rangeNum(Math.min(min ?? 0, include ?? Infinity), Math.max(max ?? 1, include ?? -Infinity), 0.1, true);
    this.plot = new uPlot(
      {
        ...this.size(),
        legend: { show: false },
        cursor: { show: false },
        scales: {
          x: { range: (u, min, max) => [Math.min(min, max - SPAN), max] },
          y: { range: (u, min, max) => (floor == null ? range(min, max) : [floor, 1.1 * (max || 1)]) },
        },
        axes: [
          { ...axis, size: 30, space: 70, values: (u, at) => at.map((t) => new Date(1000 * t).toLocaleTimeString("en-GB")) },
          { ...axis, size: 56, values: (u, at) => at.map(this.plan.axis) },
        ],
        series: [{}, ...this.names.map((name, n) => ({ label: name, ...look(name, n), width: 2, points: { show: false } }))],
        hooks: { draw: [(u) => this.drawMarks(u)] },
      },
      [[], ...this.names.map(() => [])],
      this.box,
    );
  }

  drawMarks(u) {
    const { ctx, bbox } = u;
    const scale = devicePixelRatio;
    ctx.save();
    ctx.strokeStyle = ctx.fillStyle = css("--mark");
    ctx.lineWidth = 1.5 * scale;
    ctx.setLineDash([5 * scale, 4 * scale]);
    for (const mark of this.marks) {
      if (mark.time < u.scales.x.min || mark.time > u.scales.x.max) continue;
      const x = Math.round(u.valToPos(mark.time, "x", true));
      ctx.beginPath();
      if (mark.alarm) {
        ctx.moveTo(x - 5 * scale, bbox.top);
        ctx.lineTo(x + 5 * scale, bbox.top);
        ctx.lineTo(x, bbox.top + 8 * scale);
        ctx.fill();
      } else {
        ctx.moveTo(x, bbox.top);
        ctx.lineTo(x, bbox.top + bbox.height);
        ctx.stroke();
      }
    }
    ctx.restore();
  }

  show(marks) {
    const rows = samples.map((sample) => this.plan.lines(sample));
    const names = [...new Set(rows.flatMap(Object.keys))];
    if (!this.plot || names.join() !== this.names.join()) {
      this.names = names;
      this.rebuild();
    }
    this.marks = marks;
    this.plot.setData([samples.map((sample) => sample.time), ...names.map((name) => rows.map((row) => row[name] ?? null))]);
    const last = rows.length ? rows[rows.length - 1] : {};
    this.legend.replaceChildren(...names.map((name, n) => {
      const entry = document.createElement("li");
      const swatch = entry.appendChild(document.createElement("i"));
      const { stroke, dash } = look(name, n);
      swatch.style.borderColor = stroke;
      swatch.className = dash.length ? "dashed" : "";
      entry.append(name + " ");
      entry.appendChild(document.createElement("b")).textContent = this.plan.show(last[name]);
      return entry;
    }));
    const told = names.map((name) => name + " " + this.plan.show(last[name])).join(", ");
    this.box.setAttribute("aria-label", this.figure.querySelector("figcaption").textContent.trim().replace(/\s+/g, " ") + ": now " + (told || "nothing yet"));
  }
}

// A learner looks the same in every chart: the ranker first, then the retrievers.
let learners = [];

function look(name, n) {
  const place = learners.includes(name) ? learners.indexOf(name) : n;
  return { stroke: css("--series-" + (place % 5)), dash: place ? [6, 3] : [] };
}

async function getToKnow() {
  const answer = await fetch("/v1/status").catch(() => null);
  if (!answer?.ok) {
    setTimeout(getToKnow, 2000); // it is not ready yet
    return;
  }
  const status = await answer.json();
  learners = [status.ranker, ...(status.retrievers ?? [])];
  for (const chart of charts) chart.names = [];
  draw();
}

const charts = [...document.querySelectorAll("[data-chart]")].map((figure) => new Chart(figure, CHARTS[figure.dataset.chart]));
getToKnow();

// Marks that the service keeps, and a mark wherever a learner's count of alarms has grown.
function allMarks() {
  const marks = samples.length ? [...(samples[samples.length - 1].marks || [])] : [];
  for (let n = 1; n < samples.length; n++) {
    for (const [name, of] of Object.entries(samples[n].learners)) {
      if (of.alarms > (samples[n - 1].learners[name]?.alarms ?? 0)) marks.push({ time: samples[n].time, text: name, alarm: true });
    }
  }
  return marks;
}

// What only the demonstration has: simulated visitors, whose tastes change.
function drawDemo(now) {
  const demo = now.demo;
  byId("demo").hidden = !demo;
  if (!demo) return;
  byId("waiting").hidden = !demo.waiting;
  byId("shifts").hidden = demo.waiting;
  if (demo.waiting) return;
  byId("every").textContent = round(demo.shift_every, 0);
  byId("next").textContent = Math.max(0, Math.round(demo.next_shift - now.time));
  const ago = Math.round(now.time - demo.shifted);
  byId("recovered").textContent =
    demo.shifted == null ? "" :
    demo.recovery == null ? `Since the last change, ${ago} s ago, it has not recovered yet.` :
    `After the last change it recovered in ${Math.round(demo.recovery)} s: clicks were back at nine tenths of what they had been.`;
}

function draw() {
  if (!samples.length) return;
  const now = samples[samples.length - 1];
  drawDemo(now);
  const group = control(now);
  byId("against").hidden = !group;
  byId("against").querySelector("dt span").textContent = group;
  byId("against").querySelector("dd").textContent = signed(against(now));
  // A rank correlation of rows that were chosen for their scores says little; where there is a control group, clicks say more.
  for (const chart of charts) {
    if (chart.figure.dataset.chart === "against") chart.figure.hidden = !group;
    if (chart.figure.dataset.chart === "auc") chart.figure.hidden = !!group;
  }
  byId("events").textContent = round(now.events, 0);
  byId("version").textContent = round(now.version, 0);
  byId("lag").textContent = round(now.lag, 0);
  byId("fresh").textContent = now.freshness.p99 == null ? "–" : round(ms(now.freshness.p99), 1) + " ms";
  byId("latency").textContent = now.latency?.p99 == null ? "–" : round(ms(now.latency.p99), 1) + " ms";
  byId("alarms").textContent = round(Object.values(now.learners).reduce((sum, of) => sum + of.alarms, 0), 0);
  const marks = allMarks();
  const told = marks.filter((mark) => !mark.alarm);
  byId("marked").hidden = !told.length;
  byId("marked").lastElementChild.textContent = told.length ? told[told.length - 1].text : "";
  for (const chart of charts) chart.show(marks);
}

function connected(text, live) {
  byId("connection").textContent = text;
  byId("connection").className = live ? "live" : "";
}

const source = new EventSource("/v1/live");
source.addEventListener("history", (event) => {
  samples = JSON.parse(event.data);
  connected("live", true);
  draw();
});
source.addEventListener("sample", (event) => {
  samples.push(JSON.parse(event.data));
  samples = samples.slice(-KEPT);
  draw();
});
source.onerror = () => connected("connection lost, trying again", false);
matchMedia("(prefers-color-scheme: dark)").addEventListener("change", () => {
  for (const chart of charts) chart.rebuild();
  draw();
});

// ---------------------------------------------------------------- ask for a ranking

const known = new Map(); // attributes of items already looked up

async function attributes(item) {
  if (!known.has(item)) {
    const answer = await fetch("/v1/items/" + encodeURIComponent(item));
    known.set(item, answer.ok ? (await answer.json()).attributes : {});
  }
  return known.get(item);
}

function cell(row, text) {
  const made = row.appendChild(document.createElement("td"));
  made.textContent = text;
  return made;
}

function bars(contributions) {
  const parts = Object.entries(contributions || {}).sort((a, b) => Math.abs(b[1]) - Math.abs(a[1])).slice(0, TOP_PARTS);
  const most = Math.max(1e-9, ...parts.map(([, value]) => Math.abs(value)));
  const grid = document.createElement("div");
  grid.className = "parts";
  for (const [name, value] of parts) {
    grid.appendChild(document.createElement("span")).textContent = name;
    const bar = grid.appendChild(document.createElement("span"));
    bar.className = "bar";
    const fill = bar.appendChild(document.createElement("span"));
    fill.className = value < 0 ? "minus" : "";
    const width = (50 * Math.abs(value)) / most;
    fill.style.width = width + "%";
    fill.style.left = value < 0 ? 50 - width + "%" : "50%";
    grid.appendChild(document.createElement("span")).textContent = (value < 0 ? "−" : "+") + Math.abs(value).toFixed(2);
  }
  return grid;
}

function describe(of) {
  const said = Object.entries(of).filter(([, value]) => !Array.isArray(value) || value.length);
  return said.map(([name, value]) => name + " " + (Array.isArray(value) ? value.join(", ") : value)).join("; ");
}

async function ask() {
  const told = byId("told"), table = byId("ranking");
  const user = byId("user").value;
  const body = JSON.stringify({ user, n: 8, explain: true, log: false });
  const answer = await fetch("/v1/recommend", { method: "POST", body, headers: { "Content-Type": "application/json" } });
  const ranking = await answer.json();
  told.className = answer.ok ? "" : "error";
  if (!answer.ok) {
    told.textContent = ranking.error;
    table.hidden = true;
    return;
  }
  const about = await Promise.all(ranking.items.map((place) => attributes(place.item)));
  const rows = ranking.items.map((place, n) => {
    const row = document.createElement("tr");
    cell(row, n + 1);
    const item = cell(row, place.item);
    const text = describe(about[n]);
    if (text) item.appendChild(document.createElement("small")).textContent = " " + text;
    cell(row, place.score.toFixed(3));
    cell(row, place.propensity < 0.001 ? place.propensity.toExponential(1) : place.propensity.toFixed(3));
    cell(row, Object.entries(place.reasons.retrievers || {}).map(([name, score]) => name + " " + score.toFixed(3)).join(", "));
    cell(row, "").appendChild(bars(place.reasons.contributions));
    return row;
  });
  table.tBodies[0].replaceChildren(...rows);
  table.hidden = !rows.length;
  told.textContent = rows.length
    ? `Ordered by ${ranking.source}, chosen by ${ranking.policy}, version ${ranking.version}.`
    : "Nothing to recommend yet: put items into the catalogue, or send events.";
}

async function tryToAsk() {
  try {
    await ask();
  } catch (error) {
    byId("told").className = "error";
    byId("told").textContent = "The service does not answer.";
  }
}

byId("ask").addEventListener("submit", (event) => {
  event.preventDefault();
  tryToAsk();
});
setInterval(() => byId("again").checked && byId("user").value && tryToAsk(), 2000);
