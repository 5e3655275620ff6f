// A table of class "sortable" is sorted by a column when its heading is chosen, and the other way when it is again.
const NUMBER = /^[×±]?\s*([-+−]?(\d[\d,]*)?\.?\d+)/;
function keyOf(cell) {
  const text = cell.textContent.trim(), found = text.match(NUMBER);
  if (/^[-–]?$/.test(text)) return null;  // nothing is there: always last
  return found ? parseFloat(found[1].replaceAll(",", "").replace("−", "-")) : text;
}
function compared(one, other, sign) {
  if (one === null || other === null) return (one === null) - (other === null);
  if (typeof one === "number" && typeof other === "number") return sign * (one - other);
  return sign * String(one).localeCompare(String(other), undefined, {numeric: true});
}
for (const table of document.querySelectorAll("table.sortable")) {
  const headings = [...table.tHead.rows[0].cells], body = table.tBodies[0];
  headings.forEach((heading, column) => {
    const button = document.createElement("button");
    button.type = "button";
    button.append(...heading.childNodes);
    heading.append(button);
    button.addEventListener("click", () => {
      const keys = new Map([...body.rows].map(row => [row, keyOf(row.cells[column])]));
      const text = [...keys.values()].every(key => typeof key !== "number"), now = heading.getAttribute("aria-sort");
      const upwards = now ? now === "descending" : text;  // numbers: the largest first
      headings.forEach(other => other.removeAttribute("aria-sort"));
      heading.setAttribute("aria-sort", upwards ? "ascending" : "descending");
      const rows = [...body.rows].sort((one, other) => compared(keys.get(one), keys.get(other), upwards ? 1 : -1));
      body.append(...rows);
    });
  });
}
