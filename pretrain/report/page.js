"use strict";
// Reads the values of all runs where somebody points, or goes by the arrow keys. The charts are drawn without it.
(() => {
  const figures = JSON.parse(document.getElementById("figures").textContent);
  document.documentElement.classList.add("scripted");
  const kind = () => document.querySelector("input[name=x]:checked").value;
  const isShown = (run) => document.getElementById("show-" + run).checked;
  const shown = (value) => value === null ? "not finite" : Math.abs(value) >= 1e4 ? value.toLocaleString("en-US") : String(value);

  const nearest = (values, x) => {
    let best = -1;
    let low = 0;
    let high = values.length;
    while (low < high) {
      const middle = (low + high) >> 1;
      if (values[middle] < x) low = middle + 1; else high = middle;
    }
    for (const index of [low - 1, low])
      if (index >= 0 && index < values.length && (best < 0 || Math.abs(values[index] - x) < Math.abs(values[best] - x))) best = index;
    return best;
  };

  const place = (step, tokens, seconds) => {
    if (kind() === "tokens") return tokens.toLocaleString("en-US") + " tokens (step " + step + ")";
    return kind() === "seconds" ? seconds + " s (step " + step + ")" : "step " + step;
  };

  const said = (series, index) => {
    const { step, tokens, seconds } = series.x;
    const first = series.first ? series.first[index] : step[index];
    const steps = first === step[index] ? step[index].toLocaleString("en-US") : first.toLocaleString("en-US") + "–" + step[index].toLocaleString("en-US");
    let text = figures.names[series.run] + " " + shown(series.front[index]);
    if (series.high) text += " (" + shown(series.low[index]) + " to " + shown(series.high[index]) + ")";
    else if (series.low) text += " (raw " + shown(series.low[index]) + ")";
    return { text, at: place(steps, tokens[index] ?? 0, seconds[index] ?? 0), run: series.run };
  };

  const follow = (plot) => {
    const { series } = figures.charts[plot.dataset.chart];
    const box = plot.querySelector(".box");
    const line = plot.querySelector(".reading");
    const output = plot.parentElement.querySelector(".read");
    let at = null;

    const read = (x) => {
      const found = series.filter((each) => isShown(each.run)).map((each) => ({ each, index: nearest(each.x[kind()], x) }))
        .filter(({ index }) => index >= 0);
      if (!found.length) return;
      found.sort((one, other) => Math.abs(one.each.x[kind()][one.index] - x) - Math.abs(other.each.x[kind()][other.index] - x));
      at = found[0].each.x[kind()][found[0].index];
      line.hidden = false;
      line.style.left = 100 * at / figures.ends[kind()] + "%";
      const lines = found.map(({ each, index }) => said(each, index)).sort((one, other) => one.run - other.run);
      const same = new Set(lines.map((each) => each.at)).size === 1;
      output.replaceChildren(...lines.flatMap((each, number) => {
        const span = document.createElement("span");
        span.className = "run-" + each.run;
        span.textContent = each.text + (same ? "" : " at " + each.at);
        if (number || !same) return [span];
        const head = document.createElement("span");
        head.textContent = each.at + ":";
        return [head, span];
      }));
      plot.setAttribute("aria-valuenow", String(at));
      plot.setAttribute("aria-valuetext", output.textContent);
    };

    const step = (direction, count) => {
      const values = [...new Set(series.filter((each) => isShown(each.run)).flatMap((each) => each.x[kind()]))]
        .filter((value) => value !== null).sort((one, other) => one - other);
      if (values.length) read(values[Math.max(0, Math.min(values.length - 1, (at === null ? -1 : nearest(values, at)) + direction * count))]);
    };
    const keys = { ArrowLeft: [-1, 1], ArrowDown: [-1, 1], ArrowRight: [1, 1], ArrowUp: [1, 1], PageDown: [-1, 20], PageUp: [1, 20], Home: [-1, 1e9], End: [1, 1e9] };

    plot.tabIndex = 0;
    const labels = { role: "slider", "aria-label": plot.dataset.title + ": read the values", "aria-valuemin": "0", "aria-valuenow": "0",
      "aria-valuemax": String(figures.ends.step), "aria-valuetext": "arrow keys read the values" };
    for (const [name, value] of Object.entries(labels)) plot.setAttribute(name, value);
    const point = (event) => {
      const { left, width } = box.getBoundingClientRect();
      read((event.clientX - left) / width * figures.ends[kind()]);
    };
    plot.addEventListener("pointermove", point);
    plot.addEventListener("pointerdown", point);
    plot.addEventListener("keydown", (event) => {
      if (!(event.key in keys) || event.ctrlKey || event.altKey || event.metaKey) return;
      event.preventDefault();
      step(...keys[event.key]);
    });
    for (const input of document.querySelectorAll(".controls input"))
      input.addEventListener("change", () => { line.hidden = true; output.replaceChildren(); at = null; plot.setAttribute("aria-valuemax", String(figures.ends[kind()])); });
  };
  document.querySelectorAll(".plot").forEach(follow);
})();
