"use strict";
for (const map of document.querySelectorAll(".map")) {
  const data = JSON.parse(map.querySelector("script").textContent);
  const [frame, svg, ring, tip] = [".frame", ".frame > svg", ".ring", ".tip"].map((name) => map.querySelector(name));
  const [canvas, said, sheet] = ["canvas", "output", ".sheet"].map((name) => map.querySelector(name));
  const hidden = new Set();
  let current = -1;

  const nearest = (cost) => {
    let best = -1, least = Infinity;
    for (let i = 0; i < data.x.length; i++) {
      if (hidden.has(data.labels[i])) continue;
      const own = cost(data.x[i], data.y[i], i);
      if (own < least) [best, least] = [i, own];
    }
    return best;
  };
  const show = (i) => {
    current = i;
    tip.hidden = i < 0;
    ring.setAttribute("visibility", i < 0 ? "hidden" : "visible");
    if (i < 0) return;
    ring.setAttribute("cx", data.x[i]);
    ring.setAttribute("cy", data.y[i]);
    if (sheet) {
      const brush = canvas.getContext("2d"), side = data.tile;
      brush.imageSmoothingEnabled = false;
      brush.drawImage(sheet, (i % data.columns) * side, Math.floor(i / data.columns) * side, side, side, 0, 0, 96, 96);
    }
    const label = data.classes[data.labels[i]], guess = data.classes[data.predicted[i]];
    let text = data.names[i] ?? "";
    if (label !== undefined) text = label + "\n" + text;
    if (guess !== undefined) text += guess === label ? "\n✓ guessed right" : "\n✗ taken for " + guess;
    said.textContent = text;
    const box = svg.getBoundingClientRect(), scale = box.width / 1048;
    const [x, y] = [(data.x[i] + 24) * scale, (data.y[i] + 24) * scale];
    tip.style.left = Math.max(0, Math.min(box.width - tip.offsetWidth, x > box.width / 2 ? x - tip.offsetWidth - 14 : x + 14)) + "px";
    tip.style.top = Math.max(0, Math.min(box.height - tip.offsetHeight, y - tip.offsetHeight / 2)) + "px";
  };
  const pointed = (event) => {
    const box = svg.getBoundingClientRect(), scale = 1048 / box.width;
    const [x, y] = [(event.clientX - box.left) * scale - 24, (event.clientY - box.top) * scale - 24];
    const i = nearest((a, b) => (a - x) ** 2 + (b - y) ** 2);
    show(i >= 0 && Math.hypot(data.x[i] - x, data.y[i] - y) < 60 ? i : -1);
  };
  svg.addEventListener("pointermove", pointed);
  svg.addEventListener("pointerdown", pointed);
  svg.addEventListener("pointerleave", (event) => event.pointerType === "mouse" && show(-1));
  frame.addEventListener("keydown", (event) => {
    const way = { ArrowRight: [1, 0], ArrowLeft: [-1, 0], ArrowDown: [0, 1], ArrowUp: [0, -1] }[event.key];
    if (event.key === "Escape") show(-1);
    if (!way) return;
    event.preventDefault();
    if (current < 0) return show(nearest((a, b) => (a - 500) ** 2 + (b - 500) ** 2));
    const [x, y] = [data.x[current], data.y[current]];
    const next = nearest((a, b, i) => {
      const along = (a - x) * way[0] + (b - y) * way[1], across = Math.abs((a - x) * way[1]) + Math.abs((b - y) * way[0]);
      return i === current || along <= 0 ? Infinity : along + 2 * across;
    });
    if (next >= 0) show(next);
  });
  for (const button of map.querySelectorAll("button")) {
    button.addEventListener("click", () => {
      const label = Number(button.dataset.label), on = hidden.has(label);
      on ? hidden.delete(label) : hidden.add(label);
      button.setAttribute("aria-pressed", String(on));
      svg.querySelector(`[data-label="${label}"]`).setAttribute("visibility", on ? "visible" : "hidden");
      if (current >= 0 && hidden.has(data.labels[current])) show(-1);
    });
  }
}
