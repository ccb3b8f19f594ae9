/* global uPlot */
import { ask, by, el, fill, table } from './dom.js';

const dashes = [[], [8, 4], [2, 3], [10, 3, 2, 3], [5, 5], [1, 5]];
const colour = (name) => getComputedStyle(document.documentElement).getPropertyValue(name).trim();
const short = (v) => v == null ? '–' : v >= 100 ? Math.round(v).toLocaleString('en') : v >= 10 ? v.toFixed(1) : v >= 1 || v === 0 ? v.toFixed(2) : v.toPrecision(2);

// Chart is a figure: lines that differ in pattern as well as in colour, a legend with the values under
// the cursor, and a sentence for who cannot see it.
class Chart {
  constructor(figure) {
    this.figure = by(figure);
    this.name = this.figure.querySelector('figcaption').textContent;
    this.box = el('div', { class: 'plot', role: 'img' });
    this.legend = el('ul', { class: 'legend' });
    this.figure.append(this.box, this.legend);
    this.plot = null;
    new ResizeObserver(() => this.plot?.setSize(this.size())).observe(this.box);
  }

  size() { return { width: Math.max(this.box.clientWidth, 100), height: 170 }; }

  set(lines, times, offset) {
    this.lines = lines;
    const key = lines.map((l) => l.name).join() + offset;
    if (this.key !== key) {
      this.key = key;
      this.begin(offset);
    }
    this.plot.setData([times, ...lines.map((l) => l.values)]);
    this.values(null);
    this.box.setAttribute('aria-label', `${this.name}. ` + lines.map((l) => `${l.name}: ${short(last(l.values))} at the end, ${short(most(l.values))} at most`).join('; ') + '.');
  }

  // begin makes the plot, anew where colours have changed.
  begin(offset) {
    this.plot?.destroy();
    this.offset = offset;
    const axis = { stroke: colour('--muted'), grid: { stroke: colour('--line'), width: 1 }, ticks: { show: false }, font: '12px system-ui, sans-serif' };
    this.cells = [];
    fill(this.legend, ...this.lines.map((l, i) => {
      const sample = document.createElementNS('http://www.w3.org/2000/svg', 'svg');
      for (const [k, v] of Object.entries({ viewBox: '0 0 28 8', width: 28, height: 8, 'aria-hidden': 'true', class: `line line-${i}` })) sample.setAttribute(k, v);
      const path = document.createElementNS('http://www.w3.org/2000/svg', 'path');
      for (const [k, v] of Object.entries({ d: 'M0 4H28', 'stroke-dasharray': dashes[i].join(' ') })) path.setAttribute(k, v);
      sample.append(path);
      this.cells[i] = el('span', { class: 'value' }, '–');
      return el('li', {}, sample, el('span', {}, l.name), this.cells[i]);
    }));
    this.plot = new uPlot({
      ...this.size(),
      legend: { show: false },
      cursor: { y: false, points: { size: 6 } },
      scales: { y: { range: (u, low, high) => [0, high > 0 ? high * 1.1 : 1] } },
      // Times are those of the site, not of the browser.
      tzDate: (ts) => { const d = new Date(ts * 1e3); return new Date(d.getTime() + (offset + d.getTimezoneOffset()) * 60e3); },
      axes: [
        { ...axis, size: 28, space: 60, values: (u, ticks) => ticks.map((t) => new Date((t + offset * 60) * 1e3).toISOString().slice(11, 16)) },
        { ...axis, size: 48, values: (u, ticks) => ticks.map((t) => t >= 1000 ? t / 1000 + 'k' : +t.toPrecision(3)) },
      ],
      series: [{}, ...this.lines.map((l, i) => ({ label: l.name, stroke: colour(`--line-${i}`), width: 2, dash: dashes[i], points: { show: false }, spanGaps: false }))],
      hooks: { setCursor: [(u) => this.values(u.cursor.idx)] },
    }, [[], ...this.lines.map(() => [])], this.box);
  }

  values(at) { this.lines.forEach((l, i) => { this.cells[i].textContent = short(at == null ? last(l.values) : l.values[at]); }); }

  redraw() { this.key = null; }
}

const last = (values) => values.findLast((v) => v != null);
const most = (values) => values.reduce((a, v) => v == null || a > v ? a : v, 0);

const charts = { fates: new Chart('chart-fates'), sessions: new Chart('chart-sessions'), lookups: new Chart('chart-lookups'), answers: new Chart('chart-answers') };
let range = 'hour';
let seen = null;

function draw() {
  const s = seen;
  const of = {
    fates: s.fates, lookups: s.lookups, sessions: [{ name: 'open', values: s.sessions }],
    answers: [{ name: 'half within', values: s.half }, { name: '95 in 100 within', values: s.most }],
  };
  const rows = [];
  for (const [name, lines] of Object.entries(of)) {
    charts[name].set(lines, s.times, s.offset);
    for (const l of lines) rows.push([charts[name].name, l.name, short(last(l.values)), short(most(l.values)), name === 'fates' ? s.totals[l.name].toLocaleString('en') : '']);
  }
  by('numbers').replaceChildren(...table(['Chart', 'Line', 'At the end', 'At most', 'Messages in all'], rows, [2, 3, 4]).children);
}

// refresh fetches how things went and draws it.
export async function refresh() {
  seen = await ask('api/history?range=' + range);
  draw();
}

for (const name of ['hour', 'day']) {
  by('range-' + name).addEventListener('click', () => {
    range = name;
    for (const n of ['hour', 'day']) by('range-' + n).setAttribute('aria-pressed', n === name);
    refresh().catch(() => {});
  });
}

matchMedia('(prefers-color-scheme: dark)').addEventListener('change', () => {
  Object.values(charts).forEach((c) => c.redraw());
  if (seen) draw();
});
