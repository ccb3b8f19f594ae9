import { el, mark, said } from './dom.js';

// row is a transaction in a list; why opens its explanation. Of what happens now the hour is enough.
export function row(r, why, now = false) {
  return el('li', {},
    el('span', { class: 'when' }, r.at.replace(/ \S+$/, '').slice(now ? 11 : 0)),
    el('span', { class: 'what' }, mark(r.tone), ' ', said(r.says)),
    el('span', { class: 'who' }, said(r.fromTo), r.reply ? el('span', { class: 'reply' }, said(r.reply)) : null),
    el('span', { class: 'from' }, said(r.client), r.name ? el('span', { class: 'reply' }, said(r.name)) : null),
    el('span', { class: 'said' }, said(r.said)),
    el('button', { type: 'button', class: 'id', 'aria-label': `Explain ${r.id}: ${r.says}`, click: () => why(r.id) }, r.id));
}
