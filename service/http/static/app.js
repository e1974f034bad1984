// The live page: server-sent events bring one sample a second, and all charts are drawn from the latest samples.
"use strict";

const MAX_SAMPLES = 300;
const TOP_PARTS = 4;
const MIN_SPAN = 60; // shortest time axis, seconds
const MIN_ROWS = 1000; // rows of a source before its click-through is shown: clicks arrive at once, other rows only after the window

const byId = (id) => document.getElementById(id);
const css = (name) => getComputedStyle(document.documentElement).getPropertyValue(name).trim();
const round = (value, digits) => (value == null ? "–" : value.toLocaleString("en", { maximumFractionDigits: digits }));
const percent = (value) => (value == null ? "–" : (100 * value).toFixed(1) + " %");
const signed = (value) => (value == null ? "–" : (value < 0 ? "−" : "+") + Math.abs(Math.round(100 * value)) + " %");
const short = (value) => round(value, Math.abs(value) < 100 ? 4 : 0);
const ms = (seconds) => (seconds == null ? null : 1000 * seconds);

const CHARTS = {
  ctr: { lines: (s) => pick(s.sources, (of) => (of.rows < MIN_ROWS ? null : of.ctr)), show: percent, axis: (v) => Math.round(1000 * v) / 10 + "%", floor: 0 },
  lift: { lines: (s) => (control(s) ? { ["vs. " + control(s)]: lift(s) } : {}), show: signed, axis: (v) => Math.round(100 * v) + "%", include: 0 },
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

// The control group gets the rankings of a retriever: the demonstration's, or the retriever with the most rows.
function control(sample) {
  if (sample.demo) return sample.demo.control;
  const groups = Object.entries(sample.sources || {}).filter(([name, of]) => learners.indexOf(name) > 0 && of.rows >= MIN_ROWS);
  return groups.sort((a, b) => b[1].rows - a[1].rows)[0]?.[0];
}

// Lift of the ranker's click-through over the control group: 0.38 for 38 % more.
function lift(sample) {
  if (sample.demo) return sample.demo.control_lift ?? null;
  const own = sample.sources?.[learners[0]], others = sample.sources?.[control(sample)];
  return own && own.rows >= MIN_ROWS && others?.ctr ? own.ctr / others.ctr - 1 : null;
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
          x: { range: (u, min, max) => [Math.min(min, max - MIN_SPAN), max] },
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
    const values = names.map((name) => name + " " + this.plan.show(last[name])).join(", ");
    this.box.setAttribute("aria-label", this.figure.querySelector("figcaption").textContent.trim().replace(/\s+/g, " ") + ": now " + (values || "nothing yet"));
  }
}

// A learner looks the same in every chart: the ranker first, then the retrievers.
let learners = [];

function look(name, n) {
  const index = learners.includes(name) ? learners.indexOf(name) : n;
  return { stroke: css("--series-" + (index % 5)), dash: index ? [6, 3] : [] };
}

async function loadLearners() {
  const answer = await fetch("/v1/status").catch(() => null);
  if (!answer?.ok) {
    setTimeout(loadLearners, 2000); // the service is not ready yet
    return;
  }
  const status = await answer.json();
  learners = [status.ranker, ...(status.retrievers ?? [])];
  for (const chart of charts) chart.names = [];
  draw();
}

const charts = [...document.querySelectorAll("[data-chart]")].map((figure) => new Chart(figure, CHARTS[figure.dataset.chart]));
loadLearners();

// The marks of the service, and one for each sample in which a learner's count of alarms has grown.
function allMarks() {
  const marks = samples.length ? [...(samples[samples.length - 1].marks || [])] : [];
  for (let n = 1; n < samples.length; n++) {
    for (const [name, of] of Object.entries(samples[n].learners)) {
      if (of.alarms > (samples[n - 1].learners[name]?.alarms ?? 0)) marks.push({ time: samples[n].time, text: name, alarm: true });
    }
  }
  return marks;
}

// Texts that only the demonstration shows: its visitors are simulated, and their tastes change.
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
    demo.recovery == null ? `Since the last change, ${ago} s ago, click-through has not recovered yet.` :
    `After the last change, click-through was back at 90 % of its earlier value within ${Math.round(demo.recovery)} s.`;
}

// A row for each learner that reports numbers of its own: gates, resets, recall.
function drawTold(metrics) {
  const told = Object.entries(metrics || {}).filter(([, numbers]) => Object.keys(numbers).length);
  byId("told").hidden = !told.length;
  byId("told").querySelector("tbody").replaceChildren(...told.map(([learner, numbers]) => {
    const row = document.createElement("tr");
    const name = row.appendChild(document.createElement("th"));
    name.scope = "row";
    name.textContent = learner;
    cell(row, Object.entries(numbers).map(([metric, value]) => metric + " " + short(value)).join(", "));
    return row;
  }));
}

function draw() {
  if (!samples.length) return;
  const now = samples[samples.length - 1];
  drawDemo(now);
  const group = control(now);
  byId("lift").hidden = !group;
  byId("lift").querySelector("dt span").textContent = group;
  byId("lift").querySelector("dd").textContent = signed(lift(now));
  // The shown rows were selected by their scores, so their AUC says little. With a control group, clicks say more.
  for (const chart of charts) {
    if (chart.figure.dataset.chart === "lift") chart.figure.hidden = !group;
    if (chart.figure.dataset.chart === "auc") chart.figure.hidden = !!group;
  }
  byId("events").textContent = round(now.events, 0);
  byId("version").textContent = round(now.version, 0);
  byId("lag").textContent = round(now.lag, 0);
  byId("fresh").textContent = now.freshness.p99 == null ? "–" : round(ms(now.freshness.p99), 1) + " ms";
  byId("latency").textContent = now.latency?.p99 == null ? "–" : round(ms(now.latency.p99), 1) + " ms";
  byId("alarms").textContent = round(Object.values(now.learners).reduce((sum, of) => sum + of.alarms, 0), 0);
  drawTold(now.metrics);
  const marks = allMarks();
  const named = marks.filter((mark) => !mark.alarm);
  byId("marked").hidden = !named.length;
  byId("marked").lastElementChild.textContent = named.length ? named[named.length - 1].text : "";
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
  samples = samples.slice(-MAX_SAMPLES);
  draw();
});
source.onerror = () => connected("connection lost, reconnecting", false);
matchMedia("(prefers-color-scheme: dark)").addEventListener("change", () => {
  for (const chart of charts) chart.rebuild();
  draw();
});

// ---------------------------------------------------------------- ask for a ranking

const known = new Map(); // attributes of items, by id

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
  const max = Math.max(1e-9, ...parts.map(([, value]) => Math.abs(value)));
  const grid = document.createElement("div");
  grid.className = "parts";
  for (const [name, value] of parts) {
    grid.appendChild(document.createElement("span")).textContent = name;
    const bar = grid.appendChild(document.createElement("span"));
    bar.className = "bar";
    const fill = bar.appendChild(document.createElement("span"));
    fill.className = value < 0 ? "minus" : "";
    const width = (50 * Math.abs(value)) / max;
    fill.style.width = width + "%";
    fill.style.left = value < 0 ? 50 - width + "%" : "50%";
    grid.appendChild(document.createElement("span")).textContent = (value < 0 ? "−" : "+") + Math.abs(value).toFixed(2);
  }
  return grid;
}

function describe(values) {
  const named = Object.entries(values).filter(([, value]) => !Array.isArray(value) || value.length);
  return named.map(([name, value]) => name + " " + (Array.isArray(value) ? value.join(", ") : value)).join("; ");
}

async function ask() {
  const message = byId("message"), table = byId("ranking");
  const user = byId("user").value;
  const body = JSON.stringify({ user, n: 8, explain: true, log: false });
  const answer = await fetch("/v1/recommend", { method: "POST", body, headers: { "Content-Type": "application/json" } });
  const ranking = await answer.json();
  message.className = answer.ok ? "" : "error";
  if (!answer.ok) {
    message.textContent = ranking.error;
    table.hidden = true;
    return;
  }
  const about = await Promise.all(ranking.items.map((ranked) => attributes(ranked.item)));
  const rows = ranking.items.map((ranked, n) => {
    const row = document.createElement("tr");
    cell(row, n + 1);
    const item = cell(row, ranked.item);
    const text = describe(about[n]);
    if (text) item.appendChild(document.createElement("small")).textContent = " " + text;
    cell(row, ranked.score.toFixed(3));
    cell(row, ranked.propensity < 0.001 ? ranked.propensity.toExponential(1) : ranked.propensity.toFixed(3));
    cell(row, Object.entries(ranked.reasons.retrievers || {}).map(([name, score]) => name + " " + score.toFixed(3)).join(", "));
    cell(row, "").appendChild(bars(ranked.reasons.contributions));
    return row;
  });
  table.tBodies[0].replaceChildren(...rows);
  table.hidden = !rows.length;
  message.textContent = rows.length
    ? `Ordered by ${ranking.source}, chosen by ${ranking.policy}, version ${ranking.version}.`
    : "Nothing to recommend yet: add items to the catalogue, or send events.";
}

async function tryToAsk() {
  try {
    await ask();
  } catch (error) {
    byId("message").className = "error";
    byId("message").textContent = "The service does not answer.";
  }
}

byId("ask").addEventListener("submit", (event) => {
  event.preventDefault();
  tryToAsk();
});
setInterval(() => byId("again").checked && byId("user").value && tryToAsk(), 2000);
