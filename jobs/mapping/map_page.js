"use strict";
// The program of an atlas. Data come as scripts that call `atlas.<function>`, since a page opened
// from disk may fetch nothing. Whatever a file's name says is set as text, never as markup.
const atlas = (() => {
  const about = JSON.parse(document.body.dataset.about);
  const folder = document.body.dataset.folder;
  const $ = (id) => document.getElementById(id);
  const map = $("map"), points = $("points"), marks = $("marks"), tip = $("tip");
  const SWATCHES = ["#1f6fb2", "#e07b20", "#2f9e58", "#c8372d", "#8a63c0", "#8c5a3c", "#d965a8",
    "#5f7d1f", "#16a3ad", "#d0a316", "#3f4fa3", "#f08e7a"];
  const MISSING = "#b4bbc3", OTHERS = "#6b7480";
  const SCALE = ["#440154", "#414487", "#2a788e", "#22a884", "#7ad151", "#f2d027"];
  const WHILE_MOVING = 150000; // points drawn at most until the view rests
  const REACH = 14; // px from the pointer to a point that counts as under it
  const view = { scale: 1, x: 0, y: 0, width: 0, height: 0, ratio: 1 };
  const waiting = new Map(); // file -> what waits for it
  const rows = new Map(), pictures = new Map();
  let n = 0, xy, grid, codes, colour = null, shown, pictured = new Uint32Array(0);
  let over = -1, chosen = -1, near = [];

  // ---- data ----
  function unpacked(text, Kind) {
    const letters = atob(text), bytes = new Uint8Array(letters.length);
    for (let i = 0; i < bytes.length; i++) bytes[i] = letters.charCodeAt(i);
    return new Kind(bytes.buffer);
  }

  function load(file) {
    if (!waiting.has(file)) {
      waiting.set(file, new Promise((done, fail) => {
        const script = document.createElement("script");
        script.src = `${folder}/${file}`;
        script.onload = () => { script.remove(); done(); };
        script.onerror = () => fail(new Error(`${folder}/${file} is missing: keep the page and its folder together`));
        document.head.append(script);
      }));
    }
    return waiting.get(file);
  }

  const fileOf = (number) => `${String(number).padStart(6, "0")}.js`;

  function remember(store, kind, number, value, most) {
    store.set(number, value);
    if (store.size > most) { // the oldest goes, so that a long visit does not fill the memory
      const oldest = store.keys().next().value;
      store.delete(oldest);
      waiting.delete(`${kind}/${fileOf(oldest)}`);
    }
  }

  async function rowOf(point) {
    const number = Math.floor(point / about.rowsAFile);
    if (!rows.has(number)) await load(`rows/${fileOf(number)}`);
    const some = rows.get(number), at = point - number * about.rowsAFile, k = about.neighbours;
    const values = Object.entries(some.columns).map(([name, column]) => [name, column[at]]);
    const found = [];
    for (let i = at * k; i < at * k + k; i++) {
      if (some.near[i] >= 0) found.push({ point: some.near[i], cosine: some.cosine[i] / 65535 });
    }
    return { values: values.filter(([, value]) => value !== null), near: found };
  }

  function pictureNumber(point) { // pictured is ascending
    let low = 0, high = pictured.length;
    while (low < high) {
      const middle = (low + high) >> 1;
      if (pictured[middle] < point) low = middle + 1; else high = middle;
    }
    return pictured[low] === point ? low : -1;
  }

  async function drawPicture(box, point, otherwise = about.thumbnails ? "no thumbnail" : "") {
    const number = pictureNumber(point);
    box.className = "picture";
    if (number < 0) {
      box.textContent = otherwise;
      box.hidden = !otherwise;
      return;
    }
    const file = Math.floor(number / about.picturesAFile);
    if (!pictures.has(file)) await load(`pictures/${fileOf(file)}`);
    const data = pictures.get(file)[number - file * about.picturesAFile];
    if (!data) { box.textContent = "unreadable"; return; }
    const image = document.createElement("img");
    image.alt = "";
    image.src = `data:image/jpeg;base64,${data}`;
    box.classList.add("bare");
    box.replaceChildren(image);
  }

  // ---- where things are ----
  function indexPoints() { // a grid of cells, the points of each together
    let left = Infinity, top = Infinity, right = -Infinity, bottom = -Infinity;
    for (let i = 0; i < n; i++) {
      const x = xy[2 * i], y = xy[2 * i + 1];
      if (x < left) left = x;
      if (x > right) right = x;
      if (y < top) top = y;
      if (y > bottom) bottom = y;
    }
    const side = Math.max(1, Math.ceil(Math.sqrt(n / 3)));
    const cell = Math.max(right - left, bottom - top) / side || 1;
    const start = new Uint32Array(side * side + 1), items = new Uint32Array(n);
    const at = (i) => Math.min(side - 1, Math.floor((xy[2 * i] - left) / cell))
      + side * Math.min(side - 1, Math.floor((xy[2 * i + 1] - top) / cell));
    for (let i = 0; i < n; i++) start[at(i) + 1]++;
    for (let c = 0; c < side * side; c++) start[c + 1] += start[c];
    const next = start.slice();
    for (let i = 0; i < n; i++) items[next[at(i)]++] = i;
    grid = { left, top, right, bottom, side, cell, start, items };
  }

  const screenX = (i) => (xy[2 * i] - view.x) * view.scale + view.width / 2;
  const screenY = (i) => (view.y - xy[2 * i + 1]) * view.scale + view.height / 2;

  function pointAt(px, py, reach = REACH) {
    const x = (px - view.width / 2) / view.scale + view.x;
    const y = view.y - (py - view.height / 2) / view.scale;
    const r = reach / view.scale, { left, top, side, cell, start, items } = grid;
    const clamp = (value) => Math.max(0, Math.min(side - 1, Math.floor(value)));
    let best = -1, least = r * r;
    for (let row = clamp((y - r - top) / cell); row <= clamp((y + r - top) / cell); row++) {
      for (let c = clamp((x - r - left) / cell); c <= clamp((x + r - left) / cell); c++) {
        for (let j = start[row * side + c]; j < start[row * side + c + 1]; j++) {
          const i = items[j], dx = xy[2 * i] - x, dy = xy[2 * i + 1] - y, d = dx * dx + dy * dy;
          if (d <= least && isShown(i)) { least = d; best = i; }
        }
      }
    }
    return best;
  }

  const isShown = (i) => colour.kind !== "class" || shown[codes[i]] === 1;

  function ends(axis) { // of the map along an axis; a few strays do not make all else small
    const some = [], step = Math.ceil(n / 20000);
    for (let i = 0; i < n; i += step) some.push(xy[2 * i + axis]);
    some.sort((a, b) => a - b);
    const last = some.length - 1, cut = n < 5000 ? 0 : Math.ceil(last * 0.001);
    const low = some[cut], high = some[last - cut], spare = cut ? 0.03 * (high - low) : 0;
    return [low - spare, high + spare];
  }

  function showAll() {
    const [left, right] = ends(0), [top, bottom] = ends(1);
    const wide = right - left || 1, high = bottom - top || 1;
    view.scale = 0.92 * Math.min(view.width / wide, view.height / high);
    view.x = (left + right) / 2;
    view.y = (top + bottom) / 2;
    view.whole = view.scale;
    redraw();
  }

  function zoom(factor, px = view.width / 2, py = view.height / 2) {
    const scale = Math.max(view.whole / 2, Math.min(view.whole * 5000, view.scale * factor));
    const dx = px - view.width / 2, dy = py - view.height / 2;
    view.x += dx / view.scale - dx / scale;
    view.y -= dy / view.scale - dy / scale;
    view.scale = scale;
    redraw();
  }

  function move(dx, dy) {
    view.x -= dx / view.scale;
    view.y += dy / view.scale;
    redraw();
  }

  // ---- drawing ----
  function rgb(text) {
    return [1, 3, 5].map((at) => parseInt(text.slice(at, at + 2), 16));
  }

  function swatch(index) {
    if (index < SWATCHES.length) return SWATCHES[index];
    const hue = (index * 137.508) % 360, light = 0.38 + 0.14 * (index % 3), chroma = 0.5 * 0.45;
    const part = (k) => { // HSL, so that further classes differ in hue and lightness
      const a = (k + hue / 30) % 12;
      return Math.round(255 * (light - chroma * Math.max(-1, Math.min(a - 3, 9 - a, 1))));
    };
    return `#${[0, 8, 4].map((k) => part(k).toString(16).padStart(2, "0")).join("")}`;
  }

  function scaled(share) {
    const at = Math.min(share, 0.9999) * (SCALE.length - 1), low = Math.floor(at);
    const from = rgb(SCALE[low]), to = rgb(SCALE[low + 1]);
    return from.map((value, k) => Math.round(value + (to[k] - value) * (at - low)));
  }

  function classColour(of, code) {
    if (code === 0) return MISSING;
    return of.others && code === of.classes.length ? OTHERS : swatch(code - 1);
  }

  function palette() { // of each code, as red, green, blue
    const size = colour.kind === "class" ? 256 : 257, table = new Uint8Array(3 * size);
    for (let c = 0; c < size; c++) {
      const plain = colour.kind === "class" || c === 0;
      table.set(plain ? rgb(classColour(colour, c)) : scaled((c - 1) / 255), 3 * c);
    }
    return table;
  }

  function stamp(radius) { // pixels of a disc and how much of each it covers
    const offsets = [], reach = Math.ceil(radius);
    for (let dy = -reach; dy <= reach; dy++) {
      for (let dx = -reach; dx <= reach; dx++) {
        const cover = Math.max(0, Math.min(1, radius + 0.5 - Math.hypot(dx, dy)));
        if (cover > 0.05) offsets.push([dx, dy, cover]);
      }
    }
    return offsets;
  }

  function radiusOf() {
    const base = n > 400000 ? 0.55 : n > 60000 ? 0.9 : n > 8000 ? 1.6 : 2.8;
    const growth = Math.min(5, 1 + 0.55 * Math.log2(Math.max(1, view.scale / view.whole)));
    return Math.min(6, base * growth) * view.ratio;
  }

  function drawPoints(moving) {
    const width = points.width, height = points.height, context = points.getContext("2d");
    const image = context.createImageData(width, height), data = image.data;
    data.fill(255);
    const step = moving ? Math.ceil(n / WHILE_MOVING) : 1;
    const disc = stamp(radiusOf()), alpha = n > 60000 ? 0.75 : 0.85, table = palette();
    const isClass = colour.kind === "class", edge = 8 * view.ratio;
    const scale = view.scale * view.ratio;
    let drawn = 0;
    for (let i = 0; i < n; i += step) {
      const px = Math.round((xy[2 * i] - view.x) * scale + width / 2);
      const py = Math.round((view.y - xy[2 * i + 1]) * scale + height / 2);
      if (px < -edge || py < -edge || px > width + edge || py > height + edge) continue;
      const code = codes[i];
      if (isClass && shown[code] !== 1) continue;
      const c = 3 * (isClass || code === 0 ? code : 1 + ((code - 1) >> 8));
      const red = table[c], green = table[c + 1], blue = table[c + 2];
      drawn++;
      for (let k = 0; k < disc.length; k++) {
        const x = px + disc[k][0], y = py + disc[k][1];
        if (x < 0 || y < 0 || x >= width || y >= height) continue;
        const at = 4 * (y * width + x), a = alpha * disc[k][2];
        data[at] += (red - data[at]) * a;
        data[at + 1] += (green - data[at + 1]) * a;
        data[at + 2] += (blue - data[at + 2]) * a;
      }
    }
    context.putImageData(image, 0, 0);
    points.dataset.drawn = drawn;
    const part = step > 1 ? " (a part while moving)" : "";
    $("status").textContent = `${drawn.toLocaleString("en")} points in view${part}`;
  }

  function drawMarks() {
    const context = marks.getContext("2d");
    context.setTransform(view.ratio, 0, 0, view.ratio, 0, 0);
    context.clearRect(0, 0, view.width, view.height);
    const ring = (i, radius, width, ink) => {
      context.beginPath();
      context.arc(screenX(i), screenY(i), radius, 0, 2 * Math.PI);
      context.lineWidth = width;
      context.strokeStyle = ink;
      context.stroke();
    };
    if (chosen >= 0) {
      context.strokeStyle = "#20242a88";
      context.lineWidth = 1;
      for (const one of near) {
        context.beginPath();
        context.moveTo(screenX(chosen), screenY(chosen));
        context.lineTo(screenX(one.point), screenY(one.point));
        context.stroke();
      }
      for (const one of near) ring(one.point, 6, 2, "#20242a");
      ring(chosen, 9, 3, "#20242a");
    }
    if (over >= 0) ring(over, 7, 2, "#1f6fb2");
  }

  let frame = 0, rest = 0;
  function redraw() { // a part of the points at once, all of them when the view rests
    marks.dataset.scale = view.scale;
    if (!frame) {
      frame = requestAnimationFrame(() => {
        frame = 0;
        drawPoints(n > WHILE_MOVING);
        drawMarks();
        clearTimeout(rest);
        if (n > WHILE_MOVING) rest = setTimeout(() => drawPoints(false), 140);
      });
    }
  }

  function resize() {
    const box = map.getBoundingClientRect();
    const first = !view.width;
    Object.assign(view, { width: box.width, height: box.height, ratio: window.devicePixelRatio || 1 });
    for (const canvas of [points, marks]) {
      canvas.width = Math.round(box.width * view.ratio);
      canvas.height = Math.round(box.height * view.ratio);
    }
    if (first) showAll(); else redraw();
  }
