// The map: which part is chosen, and what is known of it. All that the log brings along is
// set as text; nothing here makes markup of it.
"use strict";
(() => {
  const source = document.getElementById("map-data");
  if (!source) return;
  const details = JSON.parse(source.textContent);
  const rows = [...document.querySelectorAll("#map .bar-of")].map((bar) => [...bar.children]);
  const cells = rows.flat();
  const rowOf = new Map(rows.flatMap((row) => row.map((cell) => [cell, row])));
  const title = document.getElementById("detail-title");
  const facts = document.getElementById("detail-facts");
  const parts = document.getElementById("detail-parts");
  let chosen = -1;

  const element = (tag, text) => {
    const made = document.createElement(tag);
    if (text !== undefined) made.textContent = text;
    return made;
  };

  const listed = (detail) => {
    const found = [];
    if (detail.parts.length) {
      const table = element("table");
      for (const part of detail.parts) {
        const line = element("tr");
        line.append(...part.map((text) => element("td", text)));
        table.append(line);
      }
      found.push(table);
    }
    if (detail.more) found.push(element("p", `${detail.more.toLocaleString("en")} more are not listed.`));
    return found;
  };

  const choose = (at) => {
    if (chosen >= 0) {
      cells[chosen].removeAttribute("aria-current");
      cells[chosen].tabIndex = -1;
    }
    chosen = at;
    const detail = details[at];
    cells[at].setAttribute("aria-current", "true");
    cells[at].tabIndex = 0;
    title.textContent = detail.title;
    facts.replaceChildren(...detail.facts.flatMap(([label, text]) => [
      element("dt", label), element("dd", text),
    ]));
    parts.replaceChildren(...listed(detail));
  };

  const go = (at) => {
    if (at === undefined || at < 0 || at >= cells.length) return;
    choose(at);
    cells[at].focus();
  };

  const middle = (cell) => {
    const box = cell.getBoundingClientRect();
    return (box.left + box.right) / 2;
  };

  const beside = (cell, step) => {
    const row = rows[rows.indexOf(rowOf.get(cell)) + step];
    if (!row) return undefined;
    const from = middle(cell);
    const near = row.reduce((best, each) =>
      Math.abs(middle(each) - from) < Math.abs(middle(best) - from) ? each : best);
    return cells.indexOf(near);
  };

  const keys = {
    ArrowLeft: (cell) => cells.indexOf(cell) - 1,
    ArrowRight: (cell) => cells.indexOf(cell) + 1,
    ArrowUp: (cell) => beside(cell, -1),
    ArrowDown: (cell) => beside(cell, 1),
    Home: (cell, all) => all ? 0 : cells.indexOf(rowOf.get(cell)[0]),
    End: (cell, all) => all ? cells.length - 1 : cells.indexOf(rowOf.get(cell).at(-1)),
  };

  const map = document.getElementById("map");
  map.addEventListener("click", (event) => {
    const at = cells.indexOf(event.target);
    if (at >= 0) choose(at);
  });
  map.addEventListener("keydown", (event) => {
    const step = keys[event.key];
    if (!step || event.altKey || event.metaKey || !rowOf.has(event.target)) return;
    event.preventDefault();
    go(step(event.target, event.ctrlKey));
  });

  const on = (id, next) => document.getElementById(id).addEventListener("click", () => {
    const at = next();
    if (at < 0 || at >= cells.length) return;
    choose(at);
    cells[at].scrollIntoView({ block: "nearest" });
  });
  on("previous", () => chosen - 1);
  on("next", () => chosen + 1);
  on("fault", () => {
    const behind = details.findIndex((detail, at) => at > chosen && detail.fault);
    return behind >= 0 ? behind : details.findIndex((detail) => detail.fault);
  });
  for (const button of document.querySelectorAll("button.show")) {
    button.hidden = false;
    button.addEventListener("click", () => {
      go(Number(button.dataset.cell));
      cells[chosen].scrollIntoView({ block: "center" });
    });
  }

  // One stop of the Tab key for the whole map: the arrow keys go on from there.
  for (const cell of cells) cell.tabIndex = -1;
  cells[0].tabIndex = 0;
  document.getElementById("steps").hidden = false;
})();
