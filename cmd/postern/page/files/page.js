import { ask, by, el, fill, mark, said, table } from './dom.js';
import { row } from './rows.js';
import { overview, stale } from './overview.js';
import { explain, show } from './explain.js';
import { refresh } from './charts.js';

// ---- What goes on ----

const liveMost = 60;
const live = by('live-rows');
const pause = by('pause');
let waiting = []; // rows that come while nobody wants them to move
let paused = false;
let passed = 0;

const still = () => paused || live.matches(':hover') || live.contains(document.activeElement);

function flow() {
  if (still()) return;
  if (waiting.length) {
    live.prepend(...waiting.reverse().map((r) => row(r, explain, true)));
    waiting = [];
    while (live.childElementCount > liveMost) live.lastElementChild.remove();
  }
  note();
}

function note() {
  const texts = [];
  if (!live.childElementCount) texts.push('Nothing came since the start.');
  if (passed) texts.push(`${passed.toLocaleString('en')} more went by too fast to be shown.`);
  if (waiting.length) texts.push(`${waiting.length} new ones wait.`);
  if (lost) texts.push('The connection to Postern is lost: what is shown is old.');
  by('live-note').textContent = texts.join(' ');
}

function records(t) {
  passed += t.passed;
  waiting.push(...t.rows);
  if (waiting.length > liveMost) waiting = waiting.slice(-liveMost);
  flow();
  note();
}

pause.addEventListener('click', () => {
  paused = !paused;
  pause.setAttribute('aria-pressed', paused);
  pause.textContent = paused ? 'Go on' : 'Pause';
  flow();
});
live.addEventListener('mouseleave', flow);
live.addEventListener('focusout', () => setTimeout(flow));

let lost = false;

function away() {
  lost = true;
  stale();
  fill(by('ready'), mark('bad'), ' Postern does not answer');
  by('ready').className = 'ready bad';
  note();
}

let events = null;

function listen() {
  events?.close();
  events = new EventSource('api/events');
  events.addEventListener('overview', (e) => { back(); overview(JSON.parse(e.data)); });
  events.addEventListener('records', (e) => { back(); records(JSON.parse(e.data)); });
  events.addEventListener('error', () => {
    // A browser connects again by itself, but not where it was turned away: then the page asks by and by.
    if (events.readyState === EventSource.CLOSED) setTimeout(() => { if (!document.hidden) listen(); }, 15000);
    poll();
  });
}

function back() {
  lost = false;
}

// Nobody listens behind a tab that nobody looks at: places are few.
let hidden = 0;
document.addEventListener('visibilitychange', () => {
  clearTimeout(hidden);
  if (document.hidden) hidden = setTimeout(() => events.close(), 60000);
  else if (events.readyState === EventSource.CLOSED) listen();
});

// poll asks how things stand where nobody tells.
async function poll() {
  try {
    const o = await ask('api/overview');
    lost = false;
    overview(o);
    note();
  } catch {
    away();
  }
}

listen();
refresh().catch(() => {});
setInterval(() => { if (!document.hidden) refresh().catch(() => {}); }, 10000);

// ---- Search ----

const find = by('find-form');
let limit = 50;
let latest = 0;

async function search(most) {
  limit = most;
  const q = new URLSearchParams();
  for (const [k, v] of new FormData(find)) if (v.trim()) q.set(k, v.trim());
  if (q.get('id')) {
    explain(q.get('id'));
    return;
  }
  q.delete('id');
  q.set('limit', limit);
  const mine = ++latest;
  by('find-note').textContent = 'Searching…';
  by('find-form').setAttribute('aria-busy', 'true');
  try {
    const f = await ask('api/find?' + q);
    if (mine !== latest) return;
    fill(by('find-rows'), ...f.rows.map((r) => row(r, explain)));
    by('find-more').hidden = !f.more || limit >= 500;
    by('find-note').textContent = [
      f.rows.length ? `${f.rows.length}${f.more ? ' or more' : ''} found in ${f.took.toFixed(2)} s.` : 'Nothing was found.',
      f.more && limit >= 500 ? 'The page shows no more than these: narrow it down, or use postern find.' : '', f.partly ?? '',
    ].join(' ');
  } catch (e) {
    if (mine !== latest) return;
    fill(by('find-rows'));
    by('find-more').hidden = true;
    by('find-note').textContent = e.message;
  } finally {
    if (mine === latest) by('find-form').removeAttribute('aria-busy');
  }
}

find.addEventListener('submit', (e) => { e.preventDefault(); search(50); });
find.addEventListener('reset', () => { latest++; fill(by('find-rows')); by('find-note').textContent = ''; by('find-more').hidden = true; });
by('find-more').addEventListener('click', () => search(500));

// ---- Held mail ----

by('held-look').addEventListener('click', async () => {
  const say = by('held-note');
  say.textContent = 'Looking…';
  try {
    const h = await ask('api/held');
    say.textContent = h.notices.length ? `${h.notices.length}${h.more ? ' or more' : ''} held.` : 'No mail is held.';
    by('held-table').replaceChildren(...(h.notices.length ? table(['Id', 'From', 'To', 'Proven by', 'Rule', 'Since', 'Last', 'Tries', 'State'],
      h.notices.map((n) => [el('code', {}, n.id), said(n.from || '<>'), said(n.rcpt), said(n.who), said(n.rule), n.since, n.last, String(n.tries), n.released ? 'released' : 'held']), [7]).children : []));
  } catch (e) {
    say.textContent = e.message;
  }
});

// ---- A session to test ----

by('test-form').addEventListener('submit', async (e) => {
  e.preventDefault();
  const form = e.target;
  const of = Object.fromEntries(new FormData(form));
  of.rcpt = of.rcpt.split(',').map((r) => r.trim()).filter((r) => r);
  const say = by('test-note');
  say.textContent = 'The session runs…';
  const button = form.querySelector('button');
  button.disabled = true;
  try {
    const x = await ask('api/test-session', { method: 'POST', headers: { 'Content-Type': 'application/json' }, body: JSON.stringify(of) });
    say.textContent = 'Done: ' + x.plain.headline + '.';
    show(x);
  } catch (err) {
    say.textContent = err.message;
  } finally {
    button.disabled = false;
  }
});

// ---- The configuration ----

async function config(all) {
  const pre = by('config');
  by('config-own').setAttribute('aria-pressed', !all);
  by('config-all').setAttribute('aria-pressed', all);
  pre.hidden = false;
  try {
    const c = await ask('api/config' + (all ? '?all=1' : ''));
    fill(pre, said((c.text || '# Nothing differs from the defaults.') + (c.cut ? '\n# … and more: postern config show' : '')));
  } catch (e) {
    pre.textContent = e.message;
  }
}
by('config-own').addEventListener('click', () => config(false));
by('config-all').addEventListener('click', () => config(true));

// ---- A link to an explanation ----

function linked() {
  const m = /^#id=(.+)$/.exec(location.hash);
  if (m) explain(decodeURIComponent(m[1]));
}
addEventListener('hashchange', linked);
linked();
