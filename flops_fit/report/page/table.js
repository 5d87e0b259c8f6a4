// The table of runs: sorted by any column, the first rows at once, the others when asked.
"use strict";
(() => {
  const FIRST_ROWS = 100;
  const { data, WRITERS } = window.flopsFit;
  const table = document.getElementById("runs-table");
  if (!table || !data.runs.length) return;
  const columns = data.runs.map(({ name, shown, cells, distinct }) => ({
    name,
    shown,
    cells: distinct ? cells.map((place) => distinct[place]) : cells,
  }));
  const left = columns.find((column) => column.name === "left out because");
  const more = document.getElementById("more-runs");
  let order = columns[0].cells.map((_, row) => row);
  let sorted = null;
  let all = false;

  function text(column, cell) {
    if (cell === null) return "";
    if (column.shown === "text" || typeof cell === "string") return String(cell);
    return column.shown === "plain" ? String(cell) : WRITERS[column.shown](cell);
  }

  function show() {
    const rows = all ? order : order.slice(0, FIRST_ROWS);
    const body = document.createElement("tbody");
    for (const row of rows) {
      const line = body.insertRow();
      if (left && left.cells[row] !== null) line.className = "out";
      for (const column of columns) {
        const cell = line.insertCell();
        cell.textContent = text(column, column.cells[row]);
        if (column.shown === "text") cell.className = "text";
        else if (column.cells[row] !== null) cell.title = String(column.cells[row]);
      }
    }
    table.tBodies[0]?.remove();
    table.append(body);
    more.hidden = rows.length === order.length;
    more.textContent = `Show all ${order.length}`;
  }

  function compare(a, b) {
    if (a === b) return 0;
    if (a === null) return 1;
    if (b === null) return -1;
    return typeof a === "number" && typeof b === "number" ? a - b : String(a).localeCompare(String(b));
  }

  function sortBy(column, head) {
    const rising = !(sorted === column && head.getAttribute("aria-sort") === "ascending");
    sorted = column;
    for (const other of table.tHead.rows[0].cells) other.removeAttribute("aria-sort");
    head.setAttribute("aria-sort", rising ? "ascending" : "descending");
    // What is missing stays last, whichever way.
    order.sort((i, j) => {
      const [a, b] = [column.cells[i], column.cells[j]];
      return a === null || b === null ? compare(a, b) : rising ? compare(a, b) : compare(b, a);
    });
    show();
  }

  const heads = table.createTHead().insertRow();
  for (const column of columns) {
    const head = document.createElement("th");
    const button = document.createElement("button");
    button.textContent = column.name;
    head.className = column.shown === "text" ? "text" : "";
    head.append(button);
    button.addEventListener("click", () => sortBy(column, head));
    heads.append(head);
  }
  more.addEventListener("click", () => {
    all = true;
    show();
  });
  show();
})();
