
  // ---- legend ----
  function element(kind, text, ...inside) {
    const made = document.createElement(kind);
    if (text !== null) made.textContent = text;
    made.append(...inside);
    return made;
  }

  function button(text, act) {
    const made = element("button", text);
    made.type = "button";
    made.addEventListener("click", act);
    return made;
  }

  function toggle(code, name, count) {
    const dot = element("i", ""), made = button(null, () => {
      shown[code] = 1 - shown[code];
      made.setAttribute("aria-pressed", shown[code] === 1);
      redraw();
    });
    dot.style.background = classColour(colour, code);
    const label = element("span", name), number = element("span", count.toLocaleString("en"));
    label.className = "name";
    number.className = "count";
    made.title = name;
    made.setAttribute("aria-pressed", shown[code] === 1);
    made.append(dot, label, number);
    return made;
  }

  function classLegend() {
    const list = element("div", null), all = element("div", null);
    list.className = "classes";
    all.className = "all";
    for (const [word, value] of [["show all", 1], ["show none", 0]]) {
      all.append(button(word, () => { shown.fill(value); drawLegend(); redraw(); }));
    }
    colour.classes.forEach(([name, count], index) => list.append(toggle(index + 1, name, count)));
    if (colour.missing) list.append(toggle(0, "no value", colour.missing));
    return [all, list];
  }

  function shownNumber(value) {
    if (colour.kind === "time") return new Date(value * 1000).toISOString().slice(0, 16).replace("T", " ");
    return Number(value.toPrecision(4)).toLocaleString("en");
  }

  function scaleLegend() {
    const bar = document.createElement("canvas"), context = bar.getContext("2d");
    bar.width = 256;
    bar.height = 1;
    for (let x = 0; x < 256; x++) {
      context.fillStyle = `rgb(${scaled(x / 255).join(",")})`;
      context.fillRect(x, 0, 1, 1);
    }
    const ends = element("div", null, element("span", `≤ ${shownNumber(colour.low)}`),
      element("span", `≥ ${shownNumber(colour.high)}`));
    ends.className = "ends";
    const without = element("span", `${colour.missing.toLocaleString("en")} have no value (grey)`);
    return colour.missing ? [bar, ends, without] : [bar, ends];
  }

  function drawLegend() {
    const parts = colour.kind === "class" ? classLegend() : scaleLegend();
    $("legend").replaceChildren(...parts);
  }

  let asked = 0;
  async function colourBy(index) {
    const mine = ++asked, name = `colour-${String(index).padStart(2, "0")}.js`, wanted = about.colours[index];
    if (!wanted.codes) await load(name);
    if (mine !== asked) return; // another one was asked for meanwhile
    colour = wanted;
    codes = wanted.codes;
    shown = new Uint8Array(256).fill(1);
    drawLegend();
    if (view.width) redraw();
  }

  // ---- samples ----
  function told(values, most) {
    const list = element("dl", null);
    for (const [name, value] of values.slice(0, most)) list.append(element("dt", name), element("dd", String(value)));
    return list;
  }

  function coloured(point, values) { // what the colour says, unless a column says it already
    const code = codes[point];
    if (colour.kind !== "class" || code === 0 || values.some(([name]) => name === colour.name)) return values;
    return [...values, [colour.name, colour.classes[code - 1][0]]];
  }

  const named = (values) => values.filter(([name]) => name !== "sample_id");

  async function hover(point, px, py) {
    if (point === over) return;
    over = point;
    marks.classList.toggle("over", point >= 0);
    drawMarks();
    tip.hidden = true;
    if (point < 0) return;
    try {
      const row = await rowOf(point), box = element("div", "");
      await drawPicture(box, point);
      if (point !== over) return; // the pointer has gone on
      tip.replaceChildren(box, told(named(coloured(point, row.values)), 8));
      tip.dataset.point = point;
      tip.hidden = false;
      tip.style.left = `${px + 270 > view.width ? Math.max(0, px - 266) : px + 16}px`;
      tip.style.top = `${Math.max(0, Math.min(py + 12, view.height - tip.offsetHeight - 8))}px`;
    } catch (error) { problem(error); }
  }

  function neighbour({ point, cosine }) {
    const box = element("div", ""), made = button(null, () => choose(point, true));
    made.append(box, element("span", cosine.toFixed(3)));
    made.dataset.point = point;
    rowOf(point).then((row) => {
      const uri = row.values.find(([name]) => name === "member") || row.values.find(([name]) => name === "uri");
      made.title = uri ? String(uri[1]) : "";
      drawPicture(box, point, made.title.split("/").pop()).catch(problem);
      made.setAttribute("aria-label", `${made.title}, cosine ${cosine.toFixed(3)}`);
    }).catch(problem);
    return element("li", null, made);
  }

  async function choose(point, moveThere = false) {
    chosen = point;
    near = [];
    if (point < 0) { $("chosen").replaceChildren(); drawMarks(); return; }
    const inView = (i) => screenX(i) > 0 && screenY(i) > 0 && screenX(i) < view.width && screenY(i) < view.height;
    if (moveThere && !inView(point)) { view.x = xy[2 * point]; view.y = xy[2 * point + 1]; redraw(); }
    try {
      const row = await rowOf(point), box = element("div", "");
      if (point !== chosen) return;
      near = row.near;
      drawPicture(box, point).catch(problem);
      const list = element("ul", null, ...near.map(neighbour));
      list.id = "near";
      const parts = [element("h2", "Sample"), box, told(coloured(point, row.values))];
      if (near.length) parts.push(element("h2", "Nearest by cosine"), list);
      $("chosen").replaceChildren(...parts);
      $("chosen").dataset.point = point;
      drawMarks();
    } catch (error) { problem(error); }
  }

  function problem(error) { $("status").textContent = error.message; }

  // ---- input ----
  function listen() {
    const pointers = new Map();
    let moved = 0;
    const place = (event) => {
      const box = marks.getBoundingClientRect();
      return [event.clientX - box.left, event.clientY - box.top];
    };
    marks.addEventListener("wheel", (event) => {
      event.preventDefault();
      hover(-1);
      zoom(Math.exp(-Math.max(-240, Math.min(240, event.deltaY)) * 0.0022), ...place(event));
    }, { passive: false });
    marks.addEventListener("pointerdown", (event) => {
      marks.setPointerCapture(event.pointerId);
      pointers.set(event.pointerId, place(event));
      moved = 0;
    });
    marks.addEventListener("pointermove", (event) => {
      const now = place(event), before = pointers.get(event.pointerId);
      if (!before) { hover(pointAt(...now), ...now); return; }
      const dx = now[0] - before[0], dy = now[1] - before[1];
      moved += Math.abs(dx) + Math.abs(dy);
      if (pointers.size === 2) { // pinched: the other finger stays
        const other = [...pointers].find(([id]) => id !== event.pointerId)[1];
        const apart = (at) => Math.hypot(at[0] - other[0], at[1] - other[1]) || 1;
        zoom(apart(now) / apart(before), ...other);
      } else if (moved > 3) {
        marks.classList.add("moving");
        hover(-1);
        move(dx, dy);
      }
      pointers.set(event.pointerId, now);
    });
    for (const kind of ["pointerup", "pointercancel"]) {
      marks.addEventListener(kind, (event) => {
        pointers.delete(event.pointerId);
        marks.classList.remove("moving");
        if (kind === "pointerup" && moved <= 3) choose(pointAt(...place(event)));
      });
    }
    marks.addEventListener("pointerleave", () => hover(-1));
    const acts = { "+": () => zoom(1.5), "=": () => zoom(1.5), "-": () => zoom(1 / 1.5), 0: showAll,
      ArrowLeft: () => move(60, 0), ArrowRight: () => move(-60, 0), ArrowUp: () => move(0, 60),
      ArrowDown: () => move(0, -60), Escape: () => choose(-1),
      Enter: () => choose(pointAt(view.width / 2, view.height / 2, Math.max(view.width, view.height))) };
    marks.addEventListener("keydown", (event) => {
      const act = event.ctrlKey || event.metaKey || event.altKey ? null : acts[event.key];
      if (act) { event.preventDefault(); hover(-1); act(); }
    });
    const buttons = { in: () => zoom(1.5), out: () => zoom(1 / 1.5), all: showAll };
    for (const one of $("zoom").children) one.addEventListener("click", buttons[one.dataset.do]);
    $("by").addEventListener("change", (event) => colourBy(Number(event.target.value)).catch(problem));
    new ResizeObserver(resize).observe(map);
  }

  async function begin() {
    about.colours.forEach((one, index) => {
      const made = element("option", one.name);
      made.value = index;
      $("by").append(made);
    });
    try {
      await Promise.all([load("points.js"), load("pictured.js"), colourBy(0)]);
      indexPoints();
      listen();
      resize();
      marks.dataset.ready = Math.round(performance.now());
    } catch (error) { problem(error); }
  }

  window.addEventListener("DOMContentLoaded", begin);
  return {
    points(text) { xy = unpacked(text, Float32Array); n = xy.length / 2; },
    pictured(text) { pictured = unpacked(text, Uint32Array); },
    colour(index, text) {
      const one = about.colours[index];
      one.codes = unpacked(text, one.kind === "class" ? Uint8Array : Uint16Array);
    },
    rows(number, columns, points, cosines) {
      remember(rows, "rows", number, { columns, near: unpacked(points, Int32Array),
        cosine: unpacked(cosines, Uint16Array) }, 400);
    },
    pictures(number, some) { remember(pictures, "pictures", number, some, 400); },
    screen: (point) => { // where a point is in the window, px
      const box = marks.getBoundingClientRect();
      return [box.left + screenX(point), box.top + screenY(point)];
    },
  };
})();
