// What strangers wrote goes into text nodes, and nowhere else: this file alone makes elements.

export const by = (id) => document.getElementById(id);

// el makes an element of a tag, attributes, and children: elements and texts.
export function el(tag, attributes = {}, ...children) {
  const e = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) {
    if (name === 'click') e.addEventListener('click', value);
    else if (value === true) e.setAttribute(name, '');
    else if (value !== false && value != null) e.setAttribute(name, value);
  }
  e.append(...children.filter((c) => c != null && c !== ''));
  return e;
}

// said is a stranger's text: it keeps its direction to itself.
export const said = (text, cls) => el('bdi', { class: cls }, text ?? '');

const marks = { good: '✔', bad: '✖', waiting: '◷', neutral: '–' };

// mark is a shape beside a word: the colour says nothing more.
export const mark = (tone) => el('span', { class: 'mark ' + tone, 'aria-hidden': 'true' }, marks[tone] ?? marks.neutral);

// fill puts children in place of what an element has.
export const fill = (e, ...children) => e.replaceChildren(...children.filter((c) => c != null));

// table has a head and rows, of elements and texts. Columns of numbers are named.
export function table(heads, rows, numbers = []) {
  const cell = (tag, c, i, more = {}) => el(tag, { class: numbers.includes(i) ? 'number' : null, ...more }, c);
  return el('table', {},
    el('thead', {}, el('tr', {}, ...heads.map((h, i) => cell('th', h, i, { scope: 'col' })))),
    el('tbody', {}, ...rows.map((r) => el('tr', {}, ...r.map((c, i) => cell('td', c, i))))));
}

// put shows a table in an element, or says that there is nothing.
export function put(e, nothing, heads, rows, numbers) {
  fill(e, rows.length ? el('div', { class: 'scroll', tabindex: '0', role: 'region', 'aria-label': heads[0] }, table(heads, rows, numbers)) : el('p', { class: 'note' }, nothing));
}

// ask fetches JSON. The error has what the proxy says.
export async function ask(path, options) {
  let r;
  try {
    r = await fetch(path, options);
  } catch {
    throw new Error('Postern does not answer.');
  }
  const text = await r.text();
  let v;
  try {
    v = JSON.parse(text);
  } catch {
    throw new Error(`The answer cannot be read (status ${r.status}).`);
  }
  if (!r.ok) throw new Error(v.error ?? `status ${r.status}`);
  return v;
}

export const whole = (n) => Math.round(n).toLocaleString('en');
