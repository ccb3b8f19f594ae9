import { by, el, fill, mark, put, said, whole } from './dom.js';

const words = { pass: 'let pass', tag: 'marked', hold: 'held', defer: 'put off', reject: 'refused', none: 'not asked' };
let told = '';
let version = '';

// stale tells that the page is no more told what it says, or is told again.
export function stale() { told = ''; }

// overview shows how things stand.
export function overview(o) {
  fill(by('host'), said('on ' + o.hostname));
  document.title = (o.ready ? '' : 'NOT READY: ') + 'Postern on ' + o.hostname;
  const ready = (o.ready ? 'Ready for mail' : 'Not ready: ' + o.reasons.join(', ')) + (o.mode === 'observe' ? '. Observing: nothing is refused' : '');
  if (ready !== told) { // a screen reader says it when it changes, and not every five seconds
    told = ready;
    fill(by('ready'), mark(o.ready ? 'good' : 'bad'), ' ', said(ready));
    by('ready').className = 'ready ' + (o.ready ? 'good' : 'bad');
  }
  fill(by('states'), ...o.states.map((s) => el('li', { class: s.tone },
    el('span', { class: 'name' }, s.name), el('span', { class: 'word ' + s.tone }, mark(s.tone), ' ', s.word), el('span', { class: 'says' }, said(s.says)))));

  const most = Math.max(1, ...o.hour.verdicts.map((v) => v.count));
  const day = new Map(o.day.verdicts.map((v) => [v.disposition + ' ' + v.rule + ' ' + v.observed, v.count]));
  put(by('verdicts'), 'No mail within the hour.', ['Rule', 'Did', 'Last hour', '24 h', 'Share'],
    o.hour.verdicts.slice(0, 12).map((v) => [said(v.rule || '(no rule)'), (words[v.disposition] ?? v.disposition) + (v.observed ? ' (observed only)' : ''),
      whole(v.count), whole(day.get(v.disposition + ' ' + v.rule + ' ' + v.observed) ?? v.count), bar(v.count / most)]), [2, 3]);
  put(by('checks'), 'No check ran within the hour.', ['Check', 'Found within the hour'],
    o.hour.checks.map((c) => [c.check, el('span', { class: 'found' }, ...c.results.map((r) => el('span', {}, r.value + ' ', el('b', {}, whole(r.count)))))]));
  const refused = (id, what, list) => put(by(id), `No ${what} was refused since ${o.refusedSince}.`, [what[0].toUpperCase() + what.slice(1) + ', since ' + o.refusedSince, 'At least'], list.map((c) => [said(c.value), whole(c.count)]), [1]);
  refused('domains', 'domain', o.refusedDomains);
  refused('clients', 'client', o.refusedClients);

  put(by('backends'), 'None.', ['Mail server', 'Address', 'State'], o.backends.map((b) => [b.backend, b.address, state(b.up ? 'good' : 'bad', b.up ? 'up' : 'down')]));
  put(by('filters'), 'None: no milter and no policy service is asked.', ['Filter', 'Kind', 'Address', 'State', 'Half within', 'Last', 'Said within the hour'], o.filters.map((f) => [f.name, f.kind, said(f.address),
    el('span', {}, state(f.tone, f.word), ' ', f.says), seconds(f.half), seconds(f.last), el('span', { class: 'found' }, ...f.results.map((r) => el('span', {}, r.value + ' ', el('b', {}, whole(r.count)))))]), [4, 5]);
  put(by('listeners'), 'None.', ['Listener', 'Address', 'TLS'], o.listeners.map((l) => [l.name, l.address, l.tls]));
  put(by('certificates'), 'None.', ['Certificate', 'For', 'Ends', 'State'], o.certificates.map((c) => [said(c.file || 'made in memory'), said((c.names ?? []).join(', ')), c.ends, state(c.tone, c.says)]));
  const rules = o.day.verdicts.map((v) => v.rule).filter((r, i, all) => r && all.indexOf(r) === i);
  if (by('rules').childElementCount !== rules.length) fill(by('rules'), ...rules.map((r) => el('option', { value: r })));
  version ||= o.version;
  fill(by('about'), (version === o.version ? '' : `This page is of Postern ${version}: load it anew. `) + `Postern ${o.version}, started ${o.started}, ${o.uptime} ago. Charts begin with the start; Prometheus keeps more. It is ${o.now}.`);
}

const seconds = (s) => s === null ? '' : s < 0.001 ? '< 1 ms' : s < 1 ? Math.round(s * 1000) + ' ms' : s.toFixed(1) + ' s';

const state = (tone, word) => el('span', { class: 'word ' + tone }, mark(tone), ' ', word);

function bar(share) {
  const m = el('meter', { min: 0, max: 1, value: share, 'aria-hidden': 'true' });
  return m;
}
