"use strict";
// One map: points on a canvas, moved and magnified by mouse, touch and keys.
const MARGIN = 24, STEP = 1.35, MOST_ZOOM = 2000, REACH = { mouse: 14, pen: 18, touch: 28 };
const ARROWS = { ArrowRight: [1, 0], ArrowLeft: [-1, 0], ArrowDown: [0, 1], ArrowUp: [0, -1] };

// Draws points as discs of pixels: 50,000 take a few milliseconds, with or without a graphics card.
function createPainter(canvas) {
  const brush = canvas.getContext("2d");
  let places = [], packed = [], image = null, pixels = null;
  return {
    places(values) { places = values; },
    colours(values) { packed = new Uint32Array(values.buffer); },  // the bytes of ImageData have the same order
    draw(view, size, ratio) {
      const [columns, rows] = [canvas.width, canvas.height];
      if (image?.width !== columns || image?.height !== rows) {
        image = brush.createImageData(columns, rows);
        pixels = new Uint32Array(image.data.buffer);
      }
      pixels.fill(0);
      const scale = view.scale * ratio, [left, top] = [columns / 2 - view.x * scale, rows / 2 - view.y * scale];
      const radius = (size * ratio) / 2, reach = Math.ceil(radius - 0.5), disc = [];
      for (let y = -reach; y <= reach; y++) for (let x = -reach; x <= reach; x++) if (x * x + y * y <= radius * radius + 0.6) disc.push(y * columns + x);
      for (let i = 0; i < packed.length; i++) {
        if (!packed[i]) continue;
        const x = Math.floor(places[2 * i] * scale + left), y = Math.floor(places[2 * i + 1] * scale + top), at = y * columns + x;
        if (x < reach || y < reach || x >= columns - reach || y >= rows - reach) continue;
        for (const beside of disc) pixels[at + beside] = packed[i];
      }
      brush.putImageData(image, 0, 0);
    },
  };
}

// `places` (2N) lie in [0, 1]; `on` holds the callbacks point(row, spoken), choose(row), back(), drawn(how).
function createMap(frame, places, on) {
  const [points, marks] = ["points", "marks"].map((name) => {
    const canvas = document.createElement("canvas");
    canvas.className = name;
    canvas.setAttribute("aria-hidden", "true");
    frame.append(canvas);
    return canvas;
  });
  const painter = createPainter(points), brush = marks.getContext("2d");
  const count = places.length / 2, step = [7919, 104729].find((prime) => count % prime) ?? 1;
  const mixed = (values, width) => {  // drawn in this order no class lies on top of the others
    const out = new values.constructor(values.length);
    for (let i = 0; i < count; i++) {
      const from = (i * step) % count;
      for (let j = 0; j < width; j++) out[width * i + j] = values[width * from + j];
    }
    return out;
  };
  painter.places(mixed(places, 2));
  const view = { x: 0.5, y: 0.5, scale: 1 };
  let [width, height, whole, ratio, due] = [0, 0, 1, 1, false];
  let visible = new Uint8Array(count).fill(1), marked = { pointed: -1, chosen: -1, found: [] };

  const screen = (row) => [
    (places[2 * row] - view.x) * view.scale + width / 2, (places[2 * row + 1] - view.y) * view.scale + height / 2,
  ];
  const size = () => Math.min(16, (count > 2e4 ? 2.4 : count > 4e3 ? 3.4 : count > 500 ? 5 : 8) * (view.scale / whole) ** 0.4);
  const ring = (row, radius, style, line) => {
    const [x, y] = screen(row);
    brush.beginPath();
    brush.arc(x, y, radius, 0, 2 * Math.PI);
    [brush.strokeStyle, brush.lineWidth] = [style, line];
    brush.stroke();
  };
  const draw = () => {
    due = false;
    if (!width || !height) return;
    painter.draw(view, size(), ratio);
    brush.setTransform(ratio, 0, 0, ratio, 0, 0);
    brush.clearRect(0, 0, width, height);
    const style = getComputedStyle(frame), [ink, paper] = ["--ink", "--card"].map((name) => style.getPropertyValue(name));
    const around = (row, radius, line) => { ring(row, radius, paper, line + 2.5); ring(row, radius, ink, line); };
    for (const row of marked.found) around(row, size() / 2 + 2.5, 1.5);
    if (marked.chosen >= 0) around(marked.chosen, size() / 2 + 5, 3);
    if (marked.pointed >= 0) around(marked.pointed, size() / 2 + 3, 2);
    on.drawn({ view: { ...view }, width, height, visible });
  };
  const redraw = () => { if (!due) { due = true; requestAnimationFrame(draw); } };
  const clamp = () => {
    view.scale = Math.min(whole * MOST_ZOOM, Math.max(whole / 2, view.scale));
    [view.x, view.y] = [view.x, view.y].map((value) => Math.min(1.1, Math.max(-0.1, value)));
  };
  const showWhole = () => { Object.assign(view, { x: 0.5, y: 0.5, scale: whole }); redraw(); };
  const zoom = (factor, x = width / 2, y = height / 2) => {
    const before = view.scale;
    view.scale *= factor;
    clamp();
    const share = 1 / before - 1 / view.scale;
    view.x += (x - width / 2) * share;
    view.y += (y - height / 2) * share;
    clamp();
    redraw();
  };
  const move = (x, y) => { view.x -= x / view.scale; view.y -= y / view.scale; clamp(); redraw(); };
  const nearest = (cost) => {
    let best = -1, least = Infinity;
    for (let i = 0; i < count; i++) {
      if (!visible[i]) continue;
      const own = cost(places[2 * i], places[2 * i + 1], i);
      if (own < least) [best, least] = [i, own];
    }
    return best;
  };
  const spot = (event) => {
    const box = frame.getBoundingClientRect();
    return [event.clientX - box.left - frame.clientLeft, event.clientY - box.top - frame.clientTop];
  };
  const under = (event) => {
    const [x, y] = spot(event), [a, b] = [(x - width / 2) / view.scale + view.x, (y - height / 2) / view.scale + view.y];
    const row = nearest((c, d) => (c - a) ** 2 + (d - b) ** 2), reach = (REACH[event.pointerType] ?? REACH.mouse) / view.scale;
    return row >= 0 && Math.hypot(places[2 * row] - a, places[2 * row + 1] - b) < reach ? row : -1;
  };

  const held = new Map();
  let [travel, spread] = [0, 0];
  frame.addEventListener("pointerdown", (event) => {
    if (event.button) return;
    frame.setPointerCapture(event.pointerId);
    held.set(event.pointerId, spot(event));
    [travel, spread] = [held.size > 1 ? Infinity : 0, 0];
  });
  frame.addEventListener("pointermove", (event) => {
    if (!held.has(event.pointerId)) return on.point(under(event), false);
    const [x0, y0] = held.get(event.pointerId), now = spot(event);
    held.set(event.pointerId, now);
    travel += Math.hypot(now[0] - x0, now[1] - y0);
    if (held.size === 1 && travel > 5) move(now[0] - x0, now[1] - y0);
    if (held.size === 2) {
      const [a, b] = [...held.values()], apart = Math.hypot(a[0] - b[0], a[1] - b[1]);
      move((now[0] - x0) / 2, (now[1] - y0) / 2);
      if (spread) zoom(apart / spread, (a[0] + b[0]) / 2, (a[1] + b[1]) / 2);
      spread = apart;
    }
  });
  const release = (event) => {
    const there = held.delete(event.pointerId);
    spread = 0;
    if (!there || event.type === "pointercancel" || travel > 5) return;
    const row = under(event);
    if (row >= 0) on.choose(row);
  };
  frame.addEventListener("pointerup", release);
  frame.addEventListener("pointercancel", release);
  frame.addEventListener("pointerleave", () => on.point(-1, false));
  frame.addEventListener("wheel", (event) => {
    event.preventDefault();
    const [x, y] = spot(event), turned = event.deltaY * (event.deltaMode ? 20 : 1);
    zoom(Math.exp(-0.0022 * Math.max(-400, Math.min(400, turned))), x, y);
  }, { passive: false });
  frame.addEventListener("keydown", (event) => {
    if (event.ctrlKey || event.metaKey || event.altKey) return;
    const way = ARROWS[event.key], from = marked.pointed >= 0 ? marked.pointed : marked.chosen;
    if (way && event.shiftKey) move(-60 * way[0], -60 * way[1]);
    else if (way && from < 0) on.point(nearest((a, b) => (a - view.x) ** 2 + (b - view.y) ** 2), true);
    else if (way) {
      const [x, y] = [places[2 * from], places[2 * from + 1]];
      const next = nearest((a, b, i) => {
        const along = (a - x) * way[0] + (b - y) * way[1], across = Math.abs((a - x) * way[1]) + Math.abs((b - y) * way[0]);
        return i === from || along <= 0 ? Infinity : along + 2 * across;
      });
      if (next >= 0) on.point(next, true);
    } else if (event.key === "+" || event.key === "=") zoom(STEP);
    else if (event.key === "-") zoom(1 / STEP);
    else if (event.key === "0") showWhole();
    else if (event.key === "Enter" && from >= 0) on.choose(from);
    else if (event.key === "Escape") on.point(-1, false);
    else if (event.key === "Backspace") on.back();
    else return;
    event.preventDefault();
  });
  new ResizeObserver(() => {
    const untouched = view.scale === whole || !width;
    [width, height, ratio] = [frame.clientWidth, frame.clientHeight, Math.min(devicePixelRatio || 1, 2)];
    whole = Math.max(1, Math.min(width, height) - 2 * MARGIN);
    if (untouched) view.scale = whole;
    for (const canvas of [points, marks]) [canvas.width, canvas.height] = [width * ratio, height * ratio];
    clamp();
    draw();
  }).observe(frame);

  return {
    screen, showWhole, redraw, size: () => [width, height],
    colour(values, shown) { visible = shown; painter.colours(mixed(values, 4)); redraw(); },
    mark(values) { marked = values; redraw(); },
    reveal(row) {
      const [x, y] = screen(row);
      if (x < 10 || y < 10 || x > width - 10 || y > height - 10) {
        [view.x, view.y] = [places[2 * row], places[2 * row + 1]];
        redraw();
      }
    },
  };
}
