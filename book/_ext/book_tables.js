// A field above the first table: only rows that hold all words stay, on the whole page.
(() => {
  const tables = [...document.querySelectorAll(".bd-article table")].filter((t) => t.tBodies.length);
  if (!tables.length) return;
  const rows = tables.flatMap((table) => [...table.tBodies[0].rows]);
  const texts = rows.map((row) => row.textContent.toLowerCase());
  const field = Object.assign(document.createElement("input"), {
    type: "search", placeholder: "Filter the tables, e.g. lemma 2",
  });
  field.setAttribute("aria-label", "Filter the rows of all tables on this page");
  const count = Object.assign(document.createElement("output"), {ariaLive: "polite"});
  const box = Object.assign(document.createElement("div"), {className: "table-filter"});
  box.append(field, count);
  document.querySelector(".bd-article h1").after(box);
  field.addEventListener("input", () => {
    const words = field.value.toLowerCase().split(/\s+/).filter(Boolean);
    rows.forEach((row, i) => { row.hidden = !words.every((word) => texts[i].includes(word)); });
    for (const table of tables) {
      const empty = [...table.tBodies[0].rows].every((row) => row.hidden);
      const frame = table.closest(".pst-scrollable-table-container") ?? table;
      frame.hidden = empty;
      // The title of a table is a line in bold right before it.
      const title = frame.previousElementSibling;
      if (title?.matches("p:has(> strong:only-child)")) title.hidden = empty;
    }
    const left = rows.filter((row) => !row.hidden).length;
    count.textContent = words.length ? `${left} of ${rows.length} rows` : "";
  });
})();
