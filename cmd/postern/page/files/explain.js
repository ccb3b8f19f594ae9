import { ask, by, el, fill, mark, said, table } from './dom.js';

const dialog = by('explanation');
const body = by('explanation-body');
const title = by('explanation-title');
let latest = 0;

by('explanation-close').addEventListener('click', () => dialog.close());
dialog.addEventListener('close', () => {
  latest++;
  if (location.hash.startsWith('#id=')) history.replaceState(null, '', location.pathname);
});
dialog.addEventListener('click', (e) => { if (e.target === dialog) dialog.close(); });

function open(heading) {
  fill(title, heading);
  fill(body, el('p', { class: 'note' }, 'Looking…'));
  if (!dialog.open) dialog.showModal();
  title.focus();
}

// explain shows why a transaction ended as it did.
export async function explain(id, recipient = '') {
  const mine = ++latest;
  open('…');
  history.replaceState(null, '', '#id=' + encodeURIComponent(id));
  try {
    const x = await ask('api/explain?' + new URLSearchParams(recipient ? { id, rcpt: recipient } : { id }));
    if (mine === latest) show(x);
  } catch (e) {
    if (mine === latest) fail(e);
  }
}

function fail(e) {
  fill(title, mark('waiting'), ' Not explained');
  fill(body, el('p', {}, said(e.message)));
}

const part = (heading, ...children) => el('section', {}, el('h3', {}, heading), ...children);
const list = (texts) => el('ul', {}, ...texts.map((t) => el('li', {}, said(t))));
const more = (heading, open, ...children) => el('details', { open }, el('summary', {}, heading), ...children);
const wide = (label, t) => el('div', { class: 'scroll', tabindex: '0', role: 'region', 'aria-label': label }, t);

// show draws a transaction: what happened, why, what would have changed it, and all that was looked at.
export function show(x) {
  if (!dialog.open) dialog.showModal();
  const p = x.plain;
  fill(title, mark(p.tone), ' ', said(p.headline));
  dialog.scrollTop = 0;
  fill(body,
    el('p', { class: 'note' }, x.id ? `Transaction ${x.id}` : 'No transaction came of it'),
    choice(x),
    el('ol', { class: 'path', 'aria-label': 'How far it came' }, ...p.path.map((s) => el('li', { class: s.state },
      mark(s.tone), el('span', {}, s.title), el('small', {}, said(s.says))))),
    ...p.story.map((s) => el('p', {}, said(s))),
    p.because?.length ? part('What that rule went by', list(p.because)) : null,
    p.changes?.length ? part('What would have changed it', el('p', { class: 'note' }, 'Any one of these'), list(p.changes)) : null,
    p.advice ? part('What to tell who asks', el('p', {}, said(p.advice))) : null,
    part('What was looked at', p.checks.length ? el('ul', { class: 'checks' }, ...p.checks.map(check)) : el('p', {}, 'Nothing: no check ran.')),
    part('Who was named', wide('Who was named', table(['Who', 'Value', 'How it is known'], x.who.map((c) => [c.what, said(c.value), said(c.how)])))),
    part('What was answered', wide('What was answered', table(['To', 'Reply', 'Verdict'], x.replies.map((c) => [said(c.what), said(c.value), said(c.how)])))),
    ...(x.notes ?? []).map((n) => el('p', { class: 'note' }, said(n))),
    x.session ? more('The session, word by word', true, el('pre', { tabindex: '0' }, said(x.session.join('\n')))) : null,
    x.dns.length ? more(`DNS answers (${x.dns.length})`, false, wide('DNS answers', table(['Type', 'Name', 'Answer', 'From'], x.dns.map((a) => [a.type, said(a.name), said(a.answer), a.source])))) : null,
    more(x.rulesSame ? 'All rules, in their order' : 'All rules in their order; those of now, not those that judged', false, el('ol', { class: 'rules' }, ...x.rules.map(rule))));
  title.focus();
}

// choice lets one of several recipients be asked for.
function choice(x) {
  if (x.recipients.length < 2 || !x.id || x.session) return null;
  const s = el('select', {}, ...x.recipients.map((r) => el('option', { value: r, selected: r === x.recipient }, r)));
  s.addEventListener('change', () => explain(x.id, s.value));
  return el('label', {}, 'For the recipient ', s);
}

const check = (c) => el('li', {},
  mark(c.tone),
  el('div', {}, el('strong', {}, c.title), ' ', el('span', { class: 'word ' + c.tone }, c.result), el('div', {}, said(c.says)),
    c.reason ? el('div', { class: 'reply' }, said(c.reason)) : null));

const outcomes = { decided: 'bad', matched: 'waiting', 'no match': 'neutral', 'not reached': 'neutral', unknown: 'waiting' };

const rule = (r) => el('li', {},
  el('strong', {}, said(r.rule)), ` ${r.do}, at ${r.stage}: `, mark(outcomes[r.outcome] ?? 'neutral'), ' ' + r.outcome,
  el('div', { class: 'reply' }, said(r.when)),
  r.parts?.length ? el('ul', {}, ...r.parts.map((q) => el('li', {},
    el('code', {}, said(q.text)), ' is ' + (q.unknown ? 'not known' : q.value), ...(q.operands ?? []).filter((o) => o.text !== q.text).map((o) => el('span', {}, ', ', said(`${o.text} = ${o.value}`))),
    q.note ? el('span', {}, ' in ', said(q.note)) : null))) : null);
