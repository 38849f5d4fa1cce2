"use strict";
// Reads a curve's values under the pointer or the finger, or with the arrow keys when the plot has the focus.
let hideLast = () => {};
for (const plot of document.querySelectorAll(".plot:not(.plane)")) {
  const data = JSON.parse(plot.querySelector("script").textContent);
  const height = plot.querySelector("svg").viewBox.baseVal.height;
  for (const series of data.series) {
    let step = 0;
    series.steps = series.steps.map((way) => (step += way));
    series.dot = document.createElement("span");
    series.dot.className = "dot at " + series.style;
    series.dot.hidden = true;
    plot.append(series.dot);
  }
  const steps = [...new Set(data.series.flatMap((s) => s.steps))].sort((a, b) => a - b);
  if (steps.length === 0) continue;
  const cursor = plot.querySelector(".cursor");
  const readout = plot.querySelector(".readout");
  const span = data.last - data.first;
  const place = (step) => (span > 0 ? (step - data.first) / span : 0.5);
  let current = -1;

  const nearest = (list, step) => {
    let low = 0;
    let high = list.length - 1;
    while (low < high) {
      const middle = (low + high) >> 1;
      if (list[middle] < step) low = middle + 1;
      else high = middle;
    }
    return low > 0 && step - list[low - 1] < list[low] - step ? low - 1 : low;
  };

  const hide = () => {
    cursor.hidden = readout.hidden = true;
    for (const series of data.series) series.dot.hidden = true;
    current = -1;
  };
  const show = (index) => {
    if (hideLast !== hide) hideLast();
    hideLast = hide;
    current = Math.max(0, Math.min(steps.length - 1, index));
    const step = steps[current];
    readout.replaceChildren();
    const line = (text) => {
      const row = document.createElement("div");
      row.textContent = text;
      readout.append(row);
    };
    line("step " + step.toLocaleString("en"));
    for (const series of data.series) {
      const at = nearest(series.steps, step);
      // Thinned curves rarely have a point at the very step of the other curve.
      const near = Math.abs(series.steps[at] - step) <= span / 200;
      series.dot.hidden = !near || series.heights[at] === null;
      if (!near) continue;
      line(series.label + " " + series.texts[at]);
      series.dot.style.left = 100 * place(series.steps[at]) + "%";
      series.dot.style.top = (100 * series.heights[at]) / height + "%";
    }
    const x = place(step);
    cursor.style.left = readout.style.left = 100 * x + "%";
    readout.style.transform = x > 0.5 ? "translateX(calc(-100% - 8px))" : "translateX(8px)";
    cursor.hidden = readout.hidden = false;
  };

  const point = (event) => {
    const box = plot.getBoundingClientRect();
    show(nearest(steps, data.first + ((event.clientX - box.left) / box.width) * span));
  };
  plot.addEventListener("pointermove", point);
  plot.addEventListener("pointerdown", point);
  // A finger that is lifted leaves the values to be read, until another curve is touched.
  plot.addEventListener("pointerleave", (event) => event.pointerType === "mouse" && hide());
  plot.addEventListener("blur", hide);
  plot.addEventListener("keydown", (event) => {
    const move = { ArrowLeft: -1, ArrowRight: 1 }[event.key];
    if (!move || event.target !== plot) return;
    event.preventDefault();
    show(current < 0 ? (move > 0 ? 0 : steps.length - 1) : current + move);
  });
}
// On paper nothing can be unfolded.
const unfolded = [];
addEventListener("beforeprint", () => {
  for (const one of document.querySelectorAll("details:not([open])")) unfolded.push(one), (one.open = true);
});
addEventListener("afterprint", () => {
  for (const one of unfolded.splice(0)) one.open = false;
});
