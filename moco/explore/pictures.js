"use strict";
// Pictures on a map: at most one in each square of a grid, so a person sees at once what lies where.
const SQUARE = 84, APART = 46, REST = 120;

// `places` (2N) lie in [0, 1]; thumbnail(row) makes a picture. The layer lies between the points and the marks.
function createPictures(frame, places, thumbnail) {
  const layer = document.createElement("div"), shown = new Map();
  layer.className = "pictures";
  layer.setAttribute("aria-hidden", "true");
  frame.querySelector(".points").after(layer);
  let wanted = true, waiting = 0;
  const spot = (row, { view, width, height }) => [
    (places[2 * row] - view.x) * view.scale + width / 2, (places[2 * row + 1] - view.y) * view.scale + height / 2,
  ];
  // Squares are fixed on the map, and twice as large at half the scale: a picture stays while the map moves.
  const choose = ({ view, width, height, visible }) => {
    const side = 2 ** Math.round(Math.log2(SQUARE / view.scale)), best = new Map();
    const [left, right] = [-1, 1].map((end) => Math.floor((view.x + (end * width) / 2 / view.scale) / side));
    const [top, bottom] = [-1, 1].map((end) => Math.floor((view.y + (end * height) / 2 / view.scale) / side));
    for (let row = 0; row < places.length / 2; row++) {
      const [x, y] = [places[2 * row] / side, places[2 * row + 1] / side], [column, line] = [Math.floor(x), Math.floor(y)];
      if (!visible[row] || column < left || column > right || line < top || line > bottom) continue;
      const key = `${column} ${line}`, away = Math.abs(x - column - 0.5) + Math.abs(y - line - 0.5);
      if (!(best.get(key)?.away <= away)) best.set(key, { row, away });
    }
    const rows = [];
    for (const { row } of [...best.values()].sort((a, b) => a.away - b.away)) {
      const [x, y] = [places[2 * row], places[2 * row + 1]], near = APART / view.scale;
      if (rows.every((other) => Math.hypot(places[2 * other] - x, places[2 * other + 1] - y) > near)) rows.push(row);
    }
    return rows;
  };
  const place = (now) => shown.forEach((picture, row) => {
    const [x, y] = spot(row, now);
    picture.style.transform = `translate(${x}px, ${y}px) translate(-50%, -50%)`;
  });
  const arrange = (now) => {
    const rows = new Set(wanted ? choose(now) : []);
    for (const [row, picture] of shown) if (!rows.has(row)) { picture.remove(); shown.delete(row); }
    for (const row of rows) {
      if (shown.has(row)) continue;
      const picture = thumbnail(row);
      if (picture.complete === false) {  // until its picture is there, and where it cannot be read, a point shows itself
        picture.hidden = true;
        picture.addEventListener("load", () => { picture.hidden = false; });
      }
      shown.set(row, picture);
      layer.append(picture);
    }
    place(now);
  };
  return {
    follow(now) {  // pictures move with the map at once, and are chosen again when it rests
      place(now);
      clearTimeout(waiting);
      waiting = setTimeout(() => arrange(now), REST);
    },
    want(value) { wanted = value; },
  };
}
