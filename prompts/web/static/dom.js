// Elements without markup: every text becomes a text node, whatever it says.

export const $ = (id) => document.getElementById(id);

/** el("p", {class: "x", onclick: f}, "text", child, …): null and false are left out. */
export function el(name, attributes, ...children) {
  const node = document.createElement(name);
  for (const [key, value] of Object.entries(attributes || {})) {
    if (key.startsWith("on")) node.addEventListener(key.slice(2), value);
    else if (value === true) node.setAttribute(key, "");
    else if (value !== false && value != null) node.setAttribute(key, String(value));
  }
  node.append(...children.flat().filter((child) => child !== null && child !== false));
  return node;
}

/** Rows in `parent`, one for each item by its key: those that stay are not touched or moved. */
export function rows(parent, items, key, make) {
  const old = new Map([...parent.children].map((node) => [node.dataset.key, node]));
  let place = parent.firstElementChild;
  for (const item of items) {
    const id = String(key(item));
    const print = JSON.stringify(item);
    let node = old.get(id);
    old.delete(id);
    if (!node || node.dataset.print !== print) {
      const fresh = labelled(make(item), parent);
      fresh.dataset.key = id;
      fresh.dataset.print = print;
      if (node) {
        if (node === place) place = fresh;
        const at = node.contains(document.activeElement) ? stops(node).indexOf(document.activeElement) : -1;
        node.replaceWith(fresh);
        // Whoever has come here by keyboard stays: on the same of its links and buttons.
        if (at >= 0) stops(fresh)[at]?.focus({ preventScroll: true });
      }
      node = fresh;
    }
    if (node === place) place = place.nextElementSibling;
    else parent.insertBefore(node, place);
  }
  for (const node of old.values()) node.remove();
}

const stops = (node) => [...node.querySelectorAll("a, button, summary, input, select")];

/** A table's row, each cell with its column's name: on a narrow screen they stand one below another. */
export function labelled(row, body) {
  const heads = body.tagName === "TBODY" ? body.closest("table").tHead.rows[0].cells : [];
  for (const [i, cell] of [...(row.cells || [])].entries()) cell.dataset.label = heads[i]?.textContent || "";
  return row;
}

export function clock(seconds) {
  const time = new Date(seconds * 1000);
  const today = time.toDateString() === new Date().toDateString();
  return today ? time.toLocaleTimeString() : time.toLocaleString();
}

/** Show a text in place of nothing; "" hides it. */
export function told(node, text) {
  if (node.textContent !== text) node.textContent = text;
  node.hidden = !text;
}

let hide = 0;
export function toast(text) {
  $("toast").textContent = text;
  $("toast").hidden = false;
  clearTimeout(hide);
  hide = setTimeout(() => { $("toast").hidden = true; }, 8000);
}
$("toast").addEventListener("click", () => { $("toast").hidden = true; });
