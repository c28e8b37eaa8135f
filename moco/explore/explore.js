"use strict";
const MOST_GROUPS = 60, MOST_STEPS = 200, OPAQUE = 230;
const find = (name) => document.getElementById(name);
const made = (tag, fields = {}, ...children) => {
  const element = Object.assign(document.createElement(tag), fields);
  element.append(...children);
  return element;
};
if (location.search.includes("token=")) history.replaceState(null, "", location.pathname);

async function asked(path, options) {
  let answer;
  try {
    answer = await fetch(path, { credentials: "same-origin", ...options });
  } catch {
    throw new Error("No answer: moco explore has ended. Start it again and use the address that it prints.");
  }
  const kind = answer.headers.get("content-type") ?? "", content = kind.includes("json") ? await answer.json() : await answer.text();
  if (!answer.ok) throw new Error(content.error ?? content);
  return content;
}

async function start() {
  const block = find("data"), data = block ? JSON.parse(block.textContent) : await asked("atlas"), stored = data.stored;
  const count = data.names.length, classes = data.classes, status = find("status");
  const sheet = stored && made("img", { src: "data:image/webp;base64," + stored.picture });
  if (sheet) await sheet.decode();
  document.body.classList.toggle("pixelated", data.pixelated);
  document.title = data.runs.map((run) => run.name).join(" and ") + " · " + data.data;
  find("title").textContent = document.title;
  find("drop").hidden = Boolean(stored);
  if (stored) find("hint").textContent = "Choose a point of the map.";
  if (!data.labels) {
    find("colour").querySelector("[value=labels]").remove();
  }
  const said = (row) => (data.labels ? classes[data.labels[row]] ?? "" : "");
  const thumbnail = (row) => {
    const alt = `${said(row)} ${data.names[row]}`.trim();
    if (!stored) return made("img", { className: "thumb", src: `thumbnail/${row}?v=${data.version}`, alt, decoding: "async" });
    const side = stored.tile, canvas = made("canvas", { className: "thumb", width: side, height: side });
    canvas.setAttribute("role", "img");
    canvas.setAttribute("aria-label", alt);
    canvas.getContext("2d").drawImage(sheet, (row % stored.columns) * side, Math.floor(row / stored.columns) * side, side, side, 0, 0, side, side);
    return canvas;
  };

  // --- what is shown, and in which colour ---
  const hidden = { labels: new Set(), clusters: new Set() }, dark = matchMedia("(prefers-color-scheme: dark)"), calm = matchMedia("(prefers-reduced-motion: reduce)");
  let words = null, sought = "", visible = new Uint8Array(count).fill(1);
  const groups = (run) => (find("colour").value === "labels" ? data.labels : data.runs[run].clusters);
  const colourOf = (group, total) => {
    if (total <= 10) {
      const hex = getComputedStyle(document.documentElement).getPropertyValue(`--k${group % 10}`).trim();
      return [1, 3, 5].map((place) => parseInt(hex.slice(place, place + 2), 16));
    }
    const turn = (group * 137.508) % 360, light = (dark.matches ? 0.66 : 0.46) + 0.08 * ((group % 3) - 1), strength = 0.62 * Math.min(light, 1 - light);
    return [0, 8, 4].map((place) => {
      const k = (place + turn / 30) % 12;
      return Math.round(255 * (light - strength * Math.max(-1, Math.min(k - 3, 9 - k, 1))));
    });
  };
  const recolour = () => {
    const by = find("colour").value;
    let shown = 0;
    data.runs.forEach((run, place) => {
      const own = groups(place), total = by === "labels" ? classes.length : Math.max(...run.clusters) + 1;
      const table = Array.from({ length: total }, (_, group) => colourOf(group, total)), none = [130, 140, 150];
      const colours = new Uint8Array(4 * count);
      const seen = place ? visible : (visible = new Uint8Array(count));
      for (let i = 0; i < count; i++) {
        if (!place) {
          const there = !hidden[by].has(own[i]) && (!sought || words[i].includes(sought));
          seen[i] = there ? 1 : 0;
          shown += seen[i];
        }
        if (!seen[i]) continue;
        const colour = table[own[i]] ?? none;
        [colours[4 * i], colours[4 * i + 1], colours[4 * i + 2], colours[4 * i + 3]] = [colour[0], colour[1], colour[2], OPAQUE];
      }
      maps[place].colour(colours, visible);
    });
    tell(shown === count ? `${count.toLocaleString("en")} images` : `${shown.toLocaleString("en")} of ${count.toLocaleString("en")} images are shown`);
  };
  const legend = () => {
    const by = find("colour").value, own = groups(0), sizes = new Map();
    for (const group of own) sizes.set(group, (sizes.get(group) ?? 0) + 1);
    const order = [...sizes.keys()].filter((group) => group >= 0).sort((a, b) => a - b), total = by === "labels" ? classes.length : order.length;
    const buttons = order.slice(0, MOST_GROUPS).map((group) => {
      const dot = made("i", { className: "dot" });
      dot.style.background = `rgb(${colourOf(group, total).join(" ")})`;
      const name = by === "labels" ? classes[group] : `cluster ${group + 1}`;
      const button = made("button", { type: "button" }, dot, made("span", { textContent: name }), made("small", { textContent: sizes.get(group).toLocaleString("en") }));
      button.setAttribute("aria-pressed", String(!hidden[by].has(group)));
      button.addEventListener("click", () => {
        const on = hidden[by].has(group);
        on ? hidden[by].delete(group) : hidden[by].add(group);
        button.setAttribute("aria-pressed", String(on));
        recolour();
      });
      return button;
    });
    const every = (text, list) => {
      const button = made("button", { type: "button", className: "plain", textContent: text });
      button.addEventListener("click", () => { hidden[by] = new Set(list); legend(); recolour(); });
      return button;
    };
    const box = made("div", { className: "classes" }, every("all", []), every("none", order), ...buttons);
    box.setAttribute("role", "group");
    box.setAttribute("aria-label", by === "labels" ? "Classes shown" : "Clusters shown");
    if (order.length > MOST_GROUPS) box.append(made("p", { className: "note", textContent: `and ${order.length - MOST_GROUPS} more: find them by name` }));
    const other = by === "clusters" && data.runs.length > 1 ? [made("p", { className: "note", textContent: `Clusters of ${data.runs[0].name}; those of ${data.runs[1].name} have colours of their own.` })] : [];
    find("legend").replaceChildren(box, ...other);
  };
  const tell = (text) => { status.textContent = text; };

  // --- the maps, linked ---
  const state = { pointed: -1, chosen: -1 };
  let found = null, asking = 0;
  const steps = [];
  const point = (place) => (row, spoken) => {
    if (row === state.pointed && !spoken) return;
    state.pointed = row;
    mark();
    tips.forEach((tip, own) => {
      tip.hidden = row < 0 || own !== place;
      if (tip.hidden) return;
      tip.replaceChildren(thumbnail(row), made("output", { textContent: [said(row), data.names[row]].filter(Boolean).join("\n") }));
      if (spoken) maps[own].reveal(row);
      const [x, y] = maps[own].screen(row), [width, height] = maps[own].size();
      tip.style.left = Math.max(0, Math.min(width - tip.offsetWidth, x > width / 2 ? x - tip.offsetWidth - 16 : x + 16)) + "px";
      tip.style.top = Math.max(0, Math.min(height - tip.offsetHeight, y - tip.offsetHeight / 2)) + "px";
    });
    if (spoken && row >= 0) tell(`${said(row)} ${data.names[row]}`.trim());
  };
  const mark = () => maps.forEach((map, place) => map.mark({ ...state, found: found ? found[place].rows : [] }));
  const tips = [], pictures = [], maps = data.runs.map((run, place) => {
    const frame = made("div", { className: "frame", tabIndex: 0 }), tip = made("div", { className: "tip", hidden: true });
    frame.setAttribute("role", "application");
    frame.setAttribute("aria-label", `Map of ${count} images by ${run.name}`);
    frame.setAttribute("aria-describedby", "keys");
    const places = new Float32Array(2 * count);
    for (let i = 0; i < count; i++) [places[2 * i], places[2 * i + 1]] = [run.x[i] / 65535, run.y[i] / 65535];
    find("maps").append(made("figure", { className: "map" }, frame, made("figcaption", { className: "note", textContent: data.runs.length > 1 ? `${run.name}: ${run.method}` : run.method })));
    const map = createMap(frame, places, {
      point: point(place), choose: (row) => choose(row), back: () => back(), drawn: (how) => pictures[place].follow(how),
    });
    pictures.push(createPictures(frame, places, thumbnail));
    frame.append(tip);
    tips.push(tip);
    return map;
  });
  find("maps").classList.toggle("pair", maps.length > 1);

  // --- neighbours, and the walk from one to the next ---
  const show = async (title, picture, answers, row) => {
    const turn = ++asking, inside = find("panel").contains(document.activeElement);
    tell("looking for neighbours");
    let lists;
    try {
      lists = await answers();
    } catch (error) {
      if (turn === asking) tell(error.message);
      return false;
    }
    if (turn !== asking) return false;
    found = lists;
    Object.assign(state, { chosen: row, pointed: -1 });
    tips.forEach((tip) => { tip.hidden = true; });
    const label = row >= 0 ? said(row) : "";
    const heading = made("h3", { textContent: label || title, tabIndex: -1 });
    row >= 0 ? (find("chosen").dataset.row = row) : delete find("chosen").dataset.row;
    find("chosen").replaceChildren(picture(), made("div", {}, heading, label ? made("p", { className: "note", textContent: title }) : ""));
    find("chosen").hidden = false;
    find("hint").hidden = true;
    const both = lists.length > 1 ? new Set(lists[0].rows.filter((other) => lists[1].rows.includes(other))) : new Set();
    find("found").replaceChildren(...lists.map((list, place) => {
      const tiles = list.rows.map((other, rank) => {
        const same = label ? (said(other) === label ? "same" : "other") : "";
        const button = made("button", { type: "button", className: `tile ${same}`, title: data.names[other] }, thumbnail(other),
          made("span", { className: "caption", textContent: said(other) || data.names[other] }),
          made("span", { className: "caption similarity", textContent: (1 - list.distances[rank]).toFixed(3) + (both.has(other) ? " ●" : "") }));
        button.dataset.row = other;
        button.addEventListener("click", () => choose(other));
        const pointed = (at) => () => { state.pointed = at; mark(); };
        button.addEventListener("pointerenter", pointed(other));
        button.addEventListener("pointerleave", pointed(-1));
        return made("li", {}, button);
      });
      const agree = list.rows.filter((other) => said(other) === label).length, share = label ? ` · ${agree} of ${list.rows.length} of its class` : "";
      const head = made("h3", { textContent: data.runs.length > 1 ? data.runs[place].name : "Cosine similarity" });
      return made("section", {}, head, made("p", { className: "note", textContent: (data.runs.length > 1 ? `cosine similarity${both.size ? `, ● in both (${both.size})` : ""}` : "nearest first") + share }), made("ol", { className: "found" }, ...tiles));
    }));
    if (row >= 0) maps.forEach((map) => map.reveal(row));
    mark();
    tray?.refresh();
    if (inside) heading.focus({ preventScroll: true });
    find("chosen").scrollIntoView({ block: "nearest", behavior: calm.matches ? "instant" : "smooth" });
    tell(`${label} ${title}: ${lists[0].rows.length} neighbours`.trim());
    return true;
  };
  const beside = (row) => show(data.names[row], () => thumbnail(row),
    async () => (stored ? stored.found.map((run) => run[row]) : asked(`neighbours/${row}`)), row);
  const turned = () => { find("back").disabled = steps.length < 2; };
  const go = async (step) => {
    if (!(await step())) return;
    steps.push(step);
    if (steps.length > MOST_STEPS) steps.shift();
    turned();
  };
  const choose = (row) => (row === state.chosen ? undefined : go(() => beside(row)));
  const back = () => { if (steps.length > 1) { steps.pop(); steps[steps.length - 1](); turned(); } };
  const dropped = (file) => {
    if (!file || stored) return;
    const url = URL.createObjectURL(file);
    go(() => show(file.name, () => made("img", { className: "thumb", src: url, alt: file.name }),
      () => asked("neighbours", { method: "POST", body: file }), -1));
  };

  // --- the tools ---
  let pause = 0;
  find("find").addEventListener("input", (event) => {
    clearTimeout(pause);
    pause = setTimeout(() => {
      words ??= data.names.map((name, row) => `${said(row)} ${name}`.toLowerCase());
      sought = event.target.value.trim().toLowerCase();
      recolour();
    }, 150);
  });
  find("find").addEventListener("keydown", (event) => {
    const first = visible.indexOf(1);
    if (event.key === "Enter" && first >= 0) choose(first);
  });
  find("colour").addEventListener("change", () => { legend(); recolour(); });
  find("pictures").addEventListener("change", (event) => {
    pictures.forEach((own) => own.want(event.target.checked));
    maps.forEach((map) => map.redraw());
  });
  find("whole").addEventListener("click", () => maps.forEach((map) => map.showWhole()));
  find("back").addEventListener("click", back);
  find("file").addEventListener("change", (event) => { dropped(event.target.files[0]); event.target.value = ""; });
  for (const name of ["dragenter", "dragover", "dragleave", "drop"]) {
    document.addEventListener(name, (event) => {
      event.preventDefault();
      document.body.classList.toggle("dropping", !stored && (name === "dragenter" || name === "dragover"));
      if (name === "drop") dropped(event.dataTransfer.files[0]);
    });
  }
  dark.addEventListener("change", () => { legend(); recolour(); });
  const tray = !data.tray ? null : createTray({ asked, made, find, thumbnail, said, names: data.names, choose, current: () => state.chosen, tell });
  legend();
  recolour();
  document.body.dataset.ready = "yes";
}
start().catch((error) => { find("status").textContent = error.message; });
