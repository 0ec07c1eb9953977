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
  for (const table of document.querySelectorAll("table.evaltk")) {
    if (table.tBodies[0].rows.length < 2) continue;
    const headers = Array.from(table.tHead.rows[0].cells);
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
        status.textContent = `Sorted by ${trigger.textContent}, ${descending ? "descending" : "ascending"}`;
      });
    });
  }

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
