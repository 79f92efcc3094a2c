// A spline whose coefficients are handles: drag one, refine, and drag a finer one.
globalThis.kanLive.drag ??= (root, {order: startOrder, n: startN, play, small, colors}) => {
  const {svg, html, button, choice, path, still, glide, onWidth, power} = globalThis.kanParts;
  const S = globalThis.kanSplines;

  const LEVELS = 4, LIMIT = 1.4, STEP = 0.05, NEAR = 32;
  const SAMPLES = 12 * startN * 2 ** (LEVELS - 1);
  const xs = Array.from({length: SAMPLES + 1}, (_, i) => i / SAMPLES);
  const shape = (x) => 1.15 * Math.sin(9 * x + 0.2) * (1 - 0.2 * x);

  let order = startOrder, level = 0, grid, u, past = [], ghost = null, active = 0, touched = -1;
  let shown, width = 0, height = 0, stop = () => {}, timer = 0, curve = [];

  const frame = svg("svg", {class: "drag"});
  const band = svg("rect", {fill: colors.pull, opacity: 0.12, visibility: "hidden"});
  const ticks = svg("g", {stroke: "currentColor", "stroke-width": 1.5, opacity: 0.6});
  const polygon = svg("path", {fill: "none", stroke: "currentColor", opacity: 0.45});
  const before = svg("path", {fill: "none", stroke: "currentColor", "stroke-dasharray": "5 4",
                              "stroke-width": 1.5, opacity: 0.55});
  const line = svg("path", {class: "curve", fill: "none", stroke: colors.curve, "stroke-width": 3.5});
  const handles = svg("g");
  frame.append(band, ticks, polygon, before, line, handles);

  const status = html("figcaption", {"aria-live": play ? "off" : "polite"});
  const orders = choice("order r", [2, 3, 4, 5, 6].map((r) => [r, String(r)]), (r) => {
    halt();
    order = r;
    reset();
  });
  const grids = choice("intervals n", Array.from({length: LEVELS}, (_, l) => [l, startN * 2 ** l]),
    (wanted) => {
      halt();
      while (level < wanted) refine();
      while (level > wanted) coarsen();
    });
  const finer = button("Refine", () => { halt(); refine(); });
  const anew = button("Reset", () => { halt(); reset(); });
  const player = button("Play", () => (timer ? halt() : start()));
  const choices = small ? [] : [grids.node, orders.node];
  root.append(html("div", {class: "controls"}, finer, player, anew, ...choices), frame, status);

  const left = (x) => 14 + x * (width - 28);
  const top = (y) => height * 0.46 - (y / LIMIT) * height * 0.42;
  const value = (pixel) => ((height * 0.46 - pixel) / (height * 0.42)) * LIMIT;
  const clamp = (y) => Math.min(LIMIT, Math.max(-LIMIT, y));
  const curveOf = () => {
    const t = S.knots(grid);
    return xs.map((x) => S.evaluate(grid, u, x, t));
  };
  const count = (k, one) => `${k} ${one}${k === 1 ? "" : "s"}`;
  const size = () => `${count(S.intervals(grid), "interval")}, ${count(u.length, "coefficient")}`;

  const place = () => {
    const at = S.greville(grid);
    handles.childNodes.forEach((node, i) => {
      node.setAttribute("transform", `translate(${left(at[i]).toFixed(2)},${top(shown[i]).toFixed(2)})`);
      node.setAttribute("tabindex", i === active ? 0 : -1);
      node.setAttribute("aria-valuenow", u[i].toFixed(2));
      node.firstChild.setAttribute("fill", i === touched ? colors.pull : colors.handle);
    });
    polygon.setAttribute("d", path(at.map(left), Array.from(shown, top)));
  };

  const draw = () => {
    if (!width) return;
    curve = curveOf();
    line.setAttribute("d", path(xs.map(left), curve.map(top)));
    before.setAttribute("d", ghost ? path(xs.map(left), ghost.map(top)) : "");
    const {points} = grid, r = grid.order;
    band.setAttribute("visibility", touched < 0 ? "hidden" : "visible");
    if (touched >= 0) {
      const [a, b] = [Math.max(0, touched - r + 1), Math.min(points.length - 1, touched + 1)];
      for (const [key, v] of Object.entries({x: left(points[a]), width: left(points[b]) - left(points[a]),
                                             y: 0, height: height - 12})) band.setAttribute(key, v);
    }
    place();
  };

  // New elements for a new grid.
  const build = () => {
    ticks.replaceChildren(...grid.points.map((t) =>
      svg("line", {x1: left(t), x2: left(t), y1: height - 12, y2: height - 2})));
    ticks.append(svg("line", {x1: left(0), x2: left(1), y1: height - 7, y2: height - 7, opacity: 0.4}));
    const radius = Math.max(4, 7 - level);
    handles.replaceChildren(...Array.from(u, (_, i) => {
      const node = svg("g", {
        role: "slider", "aria-orientation": "vertical", "aria-label": `coefficient ${i + 1} of ${u.length}`,
        "aria-valuemin": -LIMIT, "aria-valuemax": LIMIT,
      }, svg("circle", {r: radius}), svg("circle", {r: 16, class: "reach"}));
      node.addEventListener("focus", () => { active = i; place(); });
      return node;
    }));
    grids.mark(level);
    orders.mark(order);
    finer.disabled = level === LEVELS - 1;
    draw();
  };

  const say = (text) => { status.textContent = text; };

  const reset = () => {
    stop();
    grid = S.uniform(order, startN);
    u = Float64Array.from(S.greville(grid), shape);
    [level, past, ghost, touched, active, shown] = [0, [], null, -1, Math.floor(u.length / 2), u];
    build();
    say(`${size()}. Drag a point, or move it with the arrow keys; then press Refine.`);
  };

  const refine = () => {
    if (level === LEVELS - 1) return;
    stop();
    const old = curveOf(), at = S.greville(grid), coarse = u;
    past.push({grid, u});
    const next = S.halved(grid);
    u = S.prolong(grid, next, u);
    grid = next;
    [level, ghost, touched, active] = [level + 1, null, -1, Math.min(2 * active, u.length - 1)];
    // The new points start on the old polygon and glide to their places; the curve rests.
    const from = S.greville(grid).map((x) => {
      let i = 1;
      while (i < at.length - 1 && at[i] < x) i++;
      const share = at[i] > at[i - 1] ? Math.min(1, Math.max(0, (x - at[i - 1]) / (at[i] - at[i - 1]))) : 1;
      return coarse[i - 1] + share * (coarse[i] - coarse[i - 1]);
    });
    shown = Float64Array.from(from);
    build();
    stop = glide(700, (share) => {
      shown = u.map((value, i) => from[i] + share * (value - from[i]));
      place();
    });
    const moved = Math.max(...curve.map((y, i) => Math.abs(y - old[i])));
    say(`${size()}. The curve is the same: it moved by ${power(moved)} at most, which is rounding. `
      + "Now pull a point: it acts on a shorter piece.");
  };

  const coarsen = () => {
    stop();
    ({grid, u} = past.pop());
    [level, ghost, touched, active, shown] = [level - 1, null, -1, Math.floor(active / 2), u];
    build();
    say(`${size()}, as it was before it was refined.`);
  };

  const pull = (i, y) => {
    if (touched !== i) ghost = curveOf();
    [touched, active] = [i, i];
    u = u.map((old, j) => (j === i ? clamp(y) : old));
    shown = u;
    draw();
    const {points} = grid, low = Math.max(0, i - grid.order + 1), high = Math.min(points.length - 1, i + 1);
    say(`Coefficient ${i + 1} is ${u[i].toFixed(2)}. It moves the curve on ${high - low} of `
      + `${count(points.length - 1, "interval")}, and nowhere else.`);
  };

  // Mouse and touch: the point next to where one presses, as long as it is held.
  let held = -1;
  const spot = (event) => {
    const box = frame.getBoundingClientRect();
    return [event.clientX - box.left, event.clientY - box.top];
  };
  frame.addEventListener("pointerdown", (event) => {
    const [x, y] = spot(event), at = S.greville(grid);
    const far = at.map((g, i) => Math.hypot(left(g) - x, top(u[i]) - y));
    const i = far.indexOf(Math.min(...far));
    if (far[i] > NEAR) return;
    event.preventDefault();
    halt();
    stop();
    held = i;
    frame.setPointerCapture(event.pointerId);
    handles.childNodes[i].focus({preventScroll: true});
    pull(i, value(y));
  });
  frame.addEventListener("pointermove", (event) => {
    if (held >= 0) pull(held, value(spot(event)[1]));
  });
  for (const name of ["pointerup", "pointercancel"]) frame.addEventListener(name, () => { held = -1; });

  const KEYS = {ArrowUp: STEP, ArrowDown: -STEP, PageUp: 5 * STEP, PageDown: -5 * STEP};
  frame.addEventListener("keydown", (event) => {
    const side = {ArrowLeft: -1, ArrowRight: 1}[event.key];
    if (side) handles.childNodes[Math.min(u.length - 1, Math.max(0, active + side))].focus();
    else if (event.key in KEYS) {
      halt();
      stop();
      pull(active, u[active] + KEYS[event.key]);
    } else return;
    event.preventDefault();
  });

  // What plays: pull a coarse point, refine twice, pull a fine one, and again.
  const slide = (i, y) => () => {
    stop();
    const from = u[i];
    stop = glide(900, (share) => pull(i, from + share * (y - from)));
  };
  const scene = () => {
    const middle = Math.floor((startN + order - 1) / 2);
    const fine = 4 * middle - Math.floor((3 * order) / 2) + 5;
    return [reset, slide(middle, 1.15), refine, refine, () => slide(fine, u[fine] - 0.8)(), refine, () => {}];
  };
  const start = () => {
    const acts = scene();
    let at = 0;
    player.textContent = "Stop";
    const next = () => acts[at++ % acts.length]();
    next();
    timer = setInterval(next, 1900);
  };
  const halt = () => {
    status.setAttribute("aria-live", "polite");
    if (!timer) return;
    timer = clearInterval(timer);
    player.textContent = "Play";
  };

  onWidth(root, (now) => {
    width = now;
    height = Math.round(Math.min(340, Math.max(240, now * 0.45)) * (small ? 0.8 : 1));
    for (const [key, v] of Object.entries({width, height, viewBox: `0 0 ${width} ${height}`}))
      frame.setAttribute(key, v);
    if (u) build();
    else reset();
  });
  if (play && !still()) {
    const watch = new IntersectionObserver(([entry]) => {
      if (!entry.isIntersecting) return;
      watch.disconnect();
      start();
    });
    watch.observe(frame);
  }
};
