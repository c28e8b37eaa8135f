"use strict";
// The tray: lists of images to look through, and marks that the server keeps.
function createTray({ asked, made, find, thumbnail, said, names, choose, current, tell }) {
  const MOST_GROUPS_SHOWN = 100, keys = { k: "keep", x: "reject" };
  let state = { marks: {}, counts: { keep: 0, reject: 0 }, steps: 0 }, asking = 0;
  const send = (path, body) => asked(path, { method: "POST", headers: { "content-type": "application/json" }, body: JSON.stringify(body) });

  const refresh = () => {
    find("undo").disabled = state.steps === 0;
    for (const mark of ["keep", "reject"]) find(`count-${mark}`).textContent = state.counts[mark].toLocaleString("en");
    for (const element of document.querySelectorAll("[data-row]")) {
      const mark = state.marks[element.dataset.row];
      mark ? element.setAttribute("data-mark", mark) : element.removeAttribute("data-mark");
    }
  };
  const change = async (work, done) => {
    try {
      state = await work();
    } catch (error) {
      tell(error.message);
      return;
    }
    refresh();
    done();
  };
  const mark = (wanted) => {
    const focused = document.activeElement?.closest?.("[data-row]"), row = focused ? Number(focused.dataset.row) : current();
    if (row < 0) { tell("Choose an image first."); return; }
    const own = state.marks[row] === wanted ? null : wanted;
    change(() => send("mark", { row, mark: own }), () => {
      tell(own ? `${own}: ${names[row]}` : `no mark: ${names[row]}`);
      if (!focused || !find("listed").contains(focused)) return;
      const tiles = [...find("listed").querySelectorAll("[data-row]")];
      tiles[tiles.indexOf(focused) + 1]?.focus();
    });
  };
  const undo = () => { if (state.steps) change(() => send("undo", {}), () => tell("The last mark is taken back.")); };

  const tile = (row) => {
    const button = made("button", { type: "button", className: "tile", title: names[row] }, thumbnail(row),
      made("span", { className: "caption", textContent: said(row) || names[row] }));
    button.dataset.row = row;
    button.addEventListener("click", () => choose(row));
    return made("li", {}, button);
  };
  const list = async () => {
    const name = find("list").value, turn = ++asking;
    find("listed").replaceChildren();
    if (!name) return;
    tell(`looking for ${name}`);
    let groups;
    try {
      groups = name in state.counts ? [Object.keys(state.marks).filter((row) => state.marks[row] === name).map(Number)] : await asked(`tray/${name}`);
    } catch (error) {
      if (turn === asking) tell(error.message);
      return;
    }
    if (turn !== asking) return;
    const shown = groups.slice(0, MOST_GROUPS_SHOWN);
    find("listed").replaceChildren(...shown.map((rows) => made("ol", { className: "found" }, ...rows.slice(0, 200).map(tile))));
    if (groups.length > shown.length) find("listed").append(made("p", { className: "note", textContent: `and ${groups.length - shown.length} more groups` }));
    refresh();
    const count = groups.reduce((sum, rows) => sum + rows.length, 0);
    tell(`${name}: ${count.toLocaleString("en")} images${groups.length > 1 ? ` in ${groups.length.toLocaleString("en")} groups` : ""}`);
    find("listed").querySelector("[data-row]")?.focus();
  };

  find("list").addEventListener("change", list);
  find("keep").addEventListener("click", () => mark("keep"));
  find("reject").addEventListener("click", () => mark("reject"));
  for (const name of ["keep", "reject"]) find(name).addEventListener("pointerdown", (event) => event.preventDefault()); // the tile keeps the focus
  find("undo").addEventListener("click", undo);
  document.addEventListener("keydown", (event) => {
    if (event.ctrlKey || event.metaKey || event.altKey || event.target.closest("input, select, textarea")) return;
    const key = event.key.toLowerCase();
    if (keys[key]) mark(keys[key]);
    else if (key === "u") undo();
    else return;
    event.preventDefault();
  });
  change(() => asked("tray"), () => { find("tray").hidden = false; });
  return { refresh };
}
