"use strict";
(() => {
  const root = document.documentElement;
  const status = document.getElementById("status");

  // Theme: as the system has it, or as chosen here. A page opened from disk may have no storage.
  const themes = ["auto", "light", "dark"];
  const button = document.getElementById("theme");
  const stored = () => { try { return localStorage.getItem("evaltk-theme"); } catch { return null; } };
  const store = (theme) => { try { localStorage.setItem("evaltk-theme", theme); } catch { /* not kept */ } };
  const show = (theme) => {
    if (theme === "auto") delete root.dataset.theme; else root.dataset.theme = theme;
    button.firstElementChild.textContent = theme;
  };
  let theme = themes.includes(stored()) ? stored() : "auto";
  show(theme);
  button.hidden = false;
  button.addEventListener("click", () => {
    theme = themes[(themes.indexOf(theme) + 1) % themes.length];
    show(theme);
    store(theme);
  });

  // Sorting. Numbers are compared as numbers, words as words; cells without anything stay below.
  const words = new Intl.Collator("en", { numeric: true, sensitivity: "base" });
  const key = (cell) => {
    if (cell.dataset.value !== undefined) return Number(cell.dataset.value);
    const text = cell.textContent.trim();
    return text === "-" || text === "" ? null : text;
  };
  const compare = (a, b) => {
    if (typeof a === "number" && typeof b === "number") return a - b;
    if (typeof a !== typeof b) return typeof a === "number" ? -1 : 1;
    return words.compare(a, b);
  };
  const sort = (table, column, descending) => {
    const body = table.tBodies[0];
    const rows = Array.from(body.rows, (row) => ({ row, key: key(row.cells[column]) }));
    rows.sort((a, b) => {
      if (a.key === null || b.key === null) return (a.key === null) - (b.key === null);
      return descending ? compare(b.key, a.key) : compare(a.key, b.key);
    });
    body.append(...rows.map((one) => one.row));
  };
  // The header cell of each column: of two rows of headers, that which has no other below it.
  const leaves = (table) => {
    const [above, below] = table.tHead.rows;
    if (!below) return Array.from(above.cells);
    const lower = Array.from(below.cells);
    return Array.from(above.cells).flatMap((cell) => cell.rowSpan === 2 ? [cell] : lower.splice(0, cell.colSpan));
  };
  const titled = (header) => header.dataset.title ?? header.textContent.trim();
  const titles = new Map();
  for (const table of document.querySelectorAll("table.evaltk")) titles.set(table, leaves(table).map(titled));
  for (const table of document.querySelectorAll("table.evaltk")) {
    if (table.tBodies[0].rows.length < 2) continue;
    const headers = leaves(table);
    headers.forEach((header, column) => {
      const trigger = document.createElement("button");
      trigger.type = "button";
      trigger.append(...header.childNodes);
      header.append(trigger);
      trigger.addEventListener("click", () => {
        const cells = Array.from(table.tBodies[0].rows, (row) => row.cells[column]);
        const numeric = cells.some((cell) => cell.dataset.value !== undefined);
        const before = header.getAttribute("aria-sort");
        // What is best stands first at the first click; names rise.
        const descending = before === null ? numeric : before === "ascending";
        for (const other of headers) other.removeAttribute("aria-sort");
        header.setAttribute("aria-sort", descending ? "descending" : "ascending");
        sort(table, column, descending);
        status.textContent = `Sorted by ${titles.get(table)[column]}, ${descending ? "descending" : "ascending"}`;
      });
    });
  }

  // A table that is too wide becomes blocks, each row its own, with titles beside the numbers.
  const fold = () => {
    for (const table of titles.keys()) {
      const box = table.closest(".scroll");
      if (!box) continue;
      table.classList.remove("stacked");
      const wide = box.scrollWidth > box.clientWidth + 1;
      table.classList.toggle("stacked", wide && table.querySelector("td[data-label]") !== null);
    }
  };
  fold();
  addEventListener("resize", fold);
  for (const one of document.querySelectorAll("details")) one.addEventListener("toggle", fold);

  // Filters: models are rows, or columns of a turned table; a task is a group of columns of the first table, and a section.
  const models = document.getElementById("models");
  const task = document.getElementById("task");
  document.querySelector(".filters").hidden = false;
  const fits = (text, words) => words.every((word) => text.toLowerCase().includes(word));
  const hide = (element, hidden) => element.classList.toggle("filtered", hidden);
  const filter = () => {
    const words = models.value.toLowerCase().split(/\s+/).filter(Boolean);
    for (const [table, heads] of titles) {
      const rows = Array.from(table.tBodies[0].rows);
      const named = ["model", "checkpoint"].includes(heads[0]);
      if (named) for (const row of rows) hide(row, !fits(row.cells[0].textContent, words));
      if (!named && heads[0] !== "") continue;
      const first = named && table.closest("#overview ~ .block") && table.tHead.rows.length === 2;
      const gone = heads.map((title, column) => column > 0 &&
        (named ? Boolean(first && task.value && !title.startsWith(task.value)) : !fits(title, words)));
      leaves(table).forEach((cell, column) => hide(cell, gone[column]));
      for (const row of rows) Array.from(row.cells).forEach((cell, column) => hide(cell, gone[column]));
      for (const group of table.tHead.querySelectorAll("th[scope=colgroup]")) {
        hide(group, Boolean(task.value) && group.textContent.trim() !== task.value);
      }
    }
    for (const group of document.querySelectorAll(".group")) {
      hide(group, Boolean(task.value) && group.dataset.task !== task.value);
    }
    for (const strip of document.querySelectorAll(".mistakes")) {
      hide(strip, !fits(strip.dataset.model, words) || Boolean(task.value) && strip.dataset.task !== task.value);
    }
    for (const origin of document.querySelectorAll(".origin")) {
      hide(origin, !fits(origin.querySelector("h3").textContent, words));
    }
    status.textContent = "Filtered";
  };
  models.addEventListener("input", filter);
  task.addEventListener("change", filter);

  // Copies. Where the clipboard is closed to a page from disk, the text is shown and selected.
  for (const box of document.querySelectorAll(".copy")) {
    box.hidden = false;
    for (const button of box.querySelectorAll("button")) {
      button.addEventListener("click", async () => {
        const text = button.nextElementSibling.content.textContent;
        try {
          await navigator.clipboard.writeText(text);
          status.textContent = `Copied as ${button.textContent}`;
          const said = button.textContent;
          button.textContent = "Copied";
          setTimeout(() => { button.textContent = said; }, 1500);
        } catch {
          let area = box.parentElement.querySelector(".copied");
          if (!area) {
            area = document.createElement("textarea");
            area.className = "copied";
            area.readOnly = true;
            area.setAttribute("aria-label", "Text to copy");
            box.parentElement.append(area);
          }
          area.value = text;
          area.select();
        }
      });
    }
  }

  // Search in settings and provenance.
  const find = document.getElementById("find");
  find.parentElement.hidden = false;
  find.addEventListener("input", () => {
    const words = find.value.toLowerCase().split(/\s+/).filter(Boolean);
    for (const one of document.querySelectorAll(".origin details")) {
      const there = fits(one.textContent, words);
      hide(one, !there);
      for (const row of one.querySelectorAll("tr")) hide(row, words.length > 0 && !fits(row.textContent, words));
      one.open = words.length > 0 && there;
    }
  });

  // Settings and provenance, all at once.
  const unfold = document.getElementById("unfold");
  unfold.hidden = false;
  unfold.addEventListener("click", () => {
    const open = unfold.getAttribute("aria-expanded") !== "true";
    for (const one of unfold.closest("section").querySelectorAll("details")) one.open = open;
    unfold.setAttribute("aria-expanded", String(open));
    unfold.textContent = open ? "Collapse all" : "Expand all";
  });
})();
