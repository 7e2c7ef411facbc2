// Charts, tables and print of a report. Everything is on the page already; without a script it still reads.
"use strict";
const store = (name) => JSON.parse(document.getElementById(name).textContent);

function setScale(node, channel, change) {
  if (!node || typeof node !== "object") return;
  const encoding = node.encoding && node.encoding[channel];
  if (encoding && encoding.scale) encoding.scale = change(encoding.scale);
  (node.layer || []).forEach((part) => setScale(part, channel, change));
}

async function drawFigure(figure) {
  const views = [];
  const charts = figure.querySelectorAll(".chart");
  const hidden = new Set();
  const states = { x: "log", y: null };
  const signal = (name, value) => views.forEach((view) => view.signal(name, value).runAsync());
  async function draw() {
    views.splice(0).forEach((view) => view.finalize());
    for (const chart of charts) {
      const spec = structuredClone(store(chart.dataset.spec));
      setScale(spec, "x", ({ base, ...scale }) => (
        states.x === "log" ? { ...scale, base, type: "log" } : { ...scale, type: "linear" }));
      if (states.y && chart.dataset.free)
        setScale(spec, "y", () => ({ type: states.y, zero: false, nice: true }));
      spec.params.find((param) => param.name === "hidden").value = [...hidden];
      const made = await vegaEmbed(chart, spec, { actions: false, renderer: "svg", ast: true,
        expr: window.vegaInterpreter });
      made.view.description(chart.dataset.title);
      made.view.addEventListener("mouseover", (event, item) =>
        item && item.datum && item.datum.series && signal("focus", item.datum.series));
      made.view.addEventListener("mouseout", () => signal("focus", ""));
      views.push(made.view);
    }
    figure.dataset.ready = "true";
  }
  figure.querySelectorAll(".legend button").forEach((button) => {
    const series = button.dataset.series;
    button.addEventListener("click", () => {
      if (!hidden.delete(series)) hidden.add(series);
      button.setAttribute("aria-pressed", String(!hidden.has(series)));
      signal("hidden", [...hidden]);
    });
    for (const [event, value] of [["focus", series], ["blur", ""], ["mouseenter", series], ["mouseleave", ""]])
      button.addEventListener(event, () => signal("focus", value));
  });
  figure.querySelectorAll(".scales button").forEach((button) =>
    button.addEventListener("click", () => {
      const next = button.dataset.now === "log" ? "linear" : "log";
      button.dataset.now = next;
      button.textContent = `${button.dataset.axis} axis: ${next === "log" ? "logarithmic" : "linear"}`;
      states[button.dataset.axis] = next;
      draw();
    }));
  figure.classList.add("live");
  await draw();
}

// What a column of numbers is sorted by: of "−0.66 ± 0.06 *" and "≥ 4,096×" the number, of other texts nothing.
function setOrder(table) {
  for (const cell of table.querySelectorAll("tbody td:not(.text):not([data-order])")) {
    const found = cell.textContent.replaceAll(",", "").replace("−", "-").match(/^[≥<+\s]*(-?\d+(\.\d+)?)/);
    cell.dataset.order = found ? found[1] : "-";
  }
}

function whenSeen(elements, act) {
  const watch = new IntersectionObserver((seen) => seen.forEach((entry) => {
    if (!entry.isIntersecting) return;
    watch.unobserve(entry.target);
    act(entry.target);
  }), { rootMargin: "400px" });
  elements.forEach((element) => watch.observe(element));
}

async function sortableTables() {
  const source = document.getElementById("table-library");
  if (!source) return;
  const url = URL.createObjectURL(new Blob([JSON.parse(source.textContent)], { type: "text/javascript" }));
  const { ITable } = await import(url);
  const start = (table) => {
    const long = table.tBodies[0].rows.length > 8 || table.dataset.rows;
    const options = { paging: Boolean(table.dataset.rows), pageLength: 50, info: false, order: [],
      autoWidth: false, lengthChange: false, deferRender: true,
      layout: { topStart: long ? "search" : null, topEnd: null, bottomStart: null,
                bottomEnd: table.dataset.rows ? "paging" : null },
      language: { search: "Filter:" } };
    if (table.dataset.rows) options.data = store(table.dataset.rows);
    setOrder(table);
    new ITable(table, options);
    table.dataset.ready = "true";
  };
  whenSeen(document.querySelectorAll("table.sortable"), start);
}

// A picture that was never seen would be missing in print.
window.addEventListener("load", () => setTimeout(() =>
  document.querySelectorAll("img[loading=lazy]").forEach((image) => { image.loading = "eager"; }), 500));
window.addEventListener("beforeprint", () =>
  document.querySelectorAll("details:not(.machine)").forEach((part) => { part.open = true; }));
if (window.vegaEmbed) whenSeen(document.querySelectorAll("figure[data-charts]"), drawFigure);
sortableTables();
