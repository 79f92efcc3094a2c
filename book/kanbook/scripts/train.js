// A network that trains in the page: its function, its loss over work, and its error by frequency.
globalThis.kanLive.train ??= (root, {seed: startSeed, colors}) => {
  const {svg, html, button, choice, path, onWidth, power} = globalThis.kanParts;
  const S = globalThis.kanSplines, N = globalThis.kanNetwork;

  const ORDER = 4, COARSEST = 5, LEVELS = 4, POINTS = 200, FINEST = COARSEST * 2 ** (LEVELS - 1);
  const SCALES = {rough: 0.3, small: 0.01, prolonged: 0.3};
  const target = (x) => 0.6 * Math.sin(2 * Math.PI * x) + 0.35 * Math.tanh(40 * (x - 0.7))
    + 0.25 * Math.sin(50 * x) * Math.exp(-(((x - 0.3) / 0.08) ** 2));
  const xs = Array.from({length: POINTS}, (_, i) => (i + 0.5) / POINTS), ys = xs.map(target);

  // Gradient descent gets fifty times the steps of Gauss-Newton, which has those of the paper.
  const WAYS = {
    spline: {text: "gradient, spline weights", many: 40, make: () => new N.Descent("spline")},
    relu: {text: "gradient, ReLU weights", many: 40, make: () => new N.Descent("relu")},
    newton: {text: "Gauss–Newton", many: 1, make: () => new N.GaussNewton()},
  };
  const WIDTHS = {hidden: [1, 4, 1], edge: [1, 1]};
  const STEPS = [32, 16, 8, 4];
  const WORK = STEPS.reduce((sum, steps, l) => sum + steps * 2 ** l, 0);

  const chosen = {way: "newton", plan: "levels", start: "rough", shape: "hidden"};
  let seed = startSeed, network, optimizer, level, plan, done, work, history;
  let run = null, runs = [], running = 0;

  const once = (name, values, key) => choice(name, values, (value) => {
    chosen[key] = value;
    reset();
  });
  const choices = {
    way: once("train by", Object.entries(WAYS).map(([key, {text}]) => [key, text]), "way"),
    plan: once("grids", [["levels", "5, 10, 20, 40"], ["fine", "40 at once"]], "plan"),
    start: once("start", Object.keys(SCALES).map((key) => [key, key]), "start"),
    shape: once("network", [["hidden", "four hidden units"], ["edge", "one spline"]], "shape"),
  };
  const toggle = button("Start", () => (running ? pause() : go()));
  const single = button("Step", () => { pause(); advance(WAYS[chosen.way].many); draw(); });
  const again = button("Reset", () => reset());
  const other = button("Other start", () => { seed += 1; reset(); });
  const status = html("figcaption", {"aria-live": "polite"});
  const list = html("ol", {class: "runs", "aria-label": "runs so far"});

  const panel = (label) => svg("svg", {role: "img", "aria-label": label});
  const views = {
    function: panel("Target and network on [0, 1]"),
    loss: panel("Mean square error over work"),
    bands: panel("Error by frequency, beside the target's"),
  };
  root.append(
    html("div", {class: "controls"}, toggle, single, again, other),
    html("div", {class: "controls"}, ...Object.values(choices).map(({node}) => node)),
    html("div", {class: "panels"}, ...Object.values(views)), status, list);

  const grids = (n) => (chosen.shape === "edge" ? [S.uniform(ORDER, n)]
    : [S.uniform(ORDER, n), S.uniform(ORDER, n, [-1, 1])]);

  const reset = () => {
    pause();
    keep();
    const coarse = chosen.plan === "levels" || chosen.start === "prolonged";
    network = N.create(WIDTHS[chosen.shape], grids(coarse ? COARSEST : FINEST), N.normals(seed),
      SCALES[chosen.start]);
    plan = STEPS.map((steps) => steps * WAYS[chosen.way].many);
    if (chosen.plan === "fine") {
      if (coarse) for (let l = 1; l < LEVELS; l++) network = N.refine(network);
      plan = [(WORK / 2 ** (LEVELS - 1)) * WAYS[chosen.way].many];
    }
    run = {...chosen};
    [optimizer, level, done, work] = [WAYS[chosen.way].make(), 0, 0, 0];
    history = [[0, N.loss(network, xs, ys)]];
    for (const [key, {mark}] of Object.entries(choices)) mark(chosen[key]);
    single.textContent = WAYS[chosen.way].many > 1 ? `${WAYS[chosen.way].many} steps` : "Step";
    say("Press Start.");
    draw();
  };

  const finished = () => level === plan.length - 1 && done === plan[level];
  const intervals = () => S.intervals(network.grids[0]);
  const last = (rows) => rows[rows.length - 1];
  const say = (text) => {
    status.textContent = `${N.total(network)} weights on ${intervals()} intervals an edge; mean square `
      + `error ${power(last(history)[1])}. ${text}`;
  };

  // Some steps, or as many as the level has; then the network is refined.
  const advance = (steps) => {
    if (finished()) return;
    for (let i = 0; i < steps && done < plan[level]; i++) {
      network = optimizer.step(network, xs, ys);
      done += 1;
      work += intervals() / COARSEST / WAYS[chosen.way].many;
    }
    history.push([work, N.loss(network, xs, ys)]);
    if (finished()) {
      pause();
      say("Done. Change one thing and start again; the last runs stay in the picture.");
    } else if (done === plan[level]) {
      network = N.refine(network);
      [level, done] = [level + 1, 0];
      say("Refined: the function is the same.");
    }
  };

  // A run that began joins those in the picture, of which the last four stay.
  const keep = () => {
    if (!run || work === 0) return;
    const text = `${WAYS[run.way].text}, ${run.plan === "fine" ? "40 at once" : "by levels"}, `
      + `${run.start} start, ${run.shape === "edge" ? "one spline" : "four hidden units"}: `
      + `${power(last(history)[1])}${finished() ? "" : ", stopped"}`;
    runs = [...runs, {history, text}].slice(-4);
    list.replaceChildren(...runs.map((each) => html("li", {}, each.text)));
  };

  const go = () => {
    if (finished()) reset();
    toggle.textContent = "Pause";
    let count = 0;
    const frame = () => {
      // A step of Gauss-Newton is shown for a moment; gradient steps pass ten at a time.
      if (chosen.way !== "newton") advance(10);
      else if (count++ % 6 === 0) advance(1);
      if (running) running = requestAnimationFrame(frame);
      draw();
    };
    running = requestAnimationFrame(frame);
  };
  const pause = () => {
    cancelAnimationFrame(running);
    running = 0;
    toggle.textContent = "Start";
  };

  // A picture with axes: logarithmic below, at powers of ten, and a title.
  const axes = (view, {width, height, title, low, high}) => {
    for (const [key, v] of Object.entries({width, height, viewBox: `0 0 ${width} ${height}`}))
      view.setAttribute(key, v);
    const box = {left: 44, right: width - 10, top: 26, bottom: height - 30};
    const y = (value) => box.bottom - ((Math.log10(Math.max(value, 10 ** low)) - low) / (high - low))
      * (box.bottom - box.top);
    const marks = [svg("text", {x: 2, y: 14, "font-weight": 600}, title)];
    for (let e = low; e <= high; e += 2) {
      const raised = [...String(e)].map((c) => "⁰¹²³⁴⁵⁶⁷⁸⁹"[c] ?? "⁻").join("");
      marks.push(
        svg("line", {x1: box.left, x2: box.right, y1: y(10 ** e), y2: y(10 ** e), opacity: 0.25,
                     stroke: "currentColor"}),
        svg("text", {x: box.left - 6, y: y(10 ** e) + 4, "text-anchor": "end"},
          e ? `10${raised}` : "1"));
    }
    return {box, y, marks};
  };

  let wide = 0;
  const size = (share, height) => ({width: Math.floor(wide > 620 ? wide * share - (share < 1) * 8 : wide),
                                    height});

  const drawFunction = () => {
    const {width, height} = size(1, 250), view = views.function;
    for (const [key, v] of Object.entries({width, height, viewBox: `0 0 ${width} ${height}`}))
      view.setAttribute(key, v);
    const left = (x) => 10 + x * (width - 20), top = (y) => 128 - Math.max(-1.25, Math.min(1.25, y)) * 88;
    const values = Array.from(N.predict(network, xs));
    const ticks = network.grids[0].points.map((t) => svg("line", {
      x1: left(t), x2: left(t), y1: height - 8, y2: height, stroke: "currentColor", opacity: 0.6}));
    view.replaceChildren(
      svg("path", {d: path(xs.map(left), ys.map(top)), fill: "none", stroke: colors.target,
                   "stroke-width": 7, opacity: 0.45}),
      svg("path", {d: path(xs.map(left), values.map(top)), fill: "none", stroke: colors.curve,
                   "stroke-width": 2.5, class: "network"}),
      svg("text", {x: width - 10, y: 14, "text-anchor": "end"},
        svg("tspan", {fill: colors.target, class: "key"}, "━ "), "target  ",
        svg("tspan", {fill: colors.curve, class: "key"}, "━ "), "network"), ...ticks);
    return values;
  };

  const drawLoss = () => {
    const all = [...runs.map((each) => each.history), history].flat();
    const low = 2 * Math.floor(Math.log10(Math.max(1e-12, Math.min(...all.map((row) => row[1])))) / 2);
    const {box, y, marks} = axes(views.loss, {
      ...size(0.5, 230), title: "mean square error", low: Math.min(-4, low), high: 0});
    const left = (at) => box.left + (at / WORK) * (box.right - box.left);
    const line = (rows, attributes) => svg("path", {
      d: path(rows.map((row) => left(row[0])), rows.map((row) => y(Math.min(1, row[1])))), fill: "none",
      ...attributes});
    views.loss.replaceChildren(
      ...marks,
      svg("text", {x: (box.left + box.right) / 2, y: box.bottom + 28, "text-anchor": "middle", class: "small"},
        "work, as a share of all"),
      ...[0, 0.5, 1].map((share) => svg("text", {
        x: box.left + share * (box.right - box.left), y: box.bottom + 14, "text-anchor": "middle",
        class: "small"}, String(share))),
      ...runs.map((each) => line(each.history, {stroke: "currentColor", opacity: 0.4})),
      line(history, {stroke: colors.curve, "stroke-width": 2.5}),
      svg("circle", {cx: left(last(history)[0]), cy: y(Math.min(1, last(history)[1])), r: 4,
                     fill: colors.curve}));
  };

  const BANDS = [[0, 1], [2, 3], [4, 7], [8, 15], [16, 31], [32, 63], [64, 127]];
  const inBands = (values) => {
    const amplitudes = N.amplitudes(values);
    return BANDS.map(([a, b]) => Math.hypot(...amplitudes.slice(a, b + 1)));
  };
  const whole = inBands(ys);

  const drawBands = (values) => {
    const {box, y, marks} = axes(views.bands, {...size(0.5, 230), title: "error by frequency", low: -6,
                                               high: 0});
    const room = (box.right - box.left) / BANDS.length;
    const bars = inBands(values.map((value, i) => value - ys[i])).flatMap((height, b) => {
      const at = box.left + b * room, high = y(Math.min(1, height)), reach = y(Math.min(1, whole[b]));
      return [
        svg("rect", {x: at + room * 0.2, width: room * 0.6, y: high, height: box.bottom - high,
                     fill: colors.left, class: "band"}),
        svg("line", {x1: at + room * 0.05, x2: at + room * 0.95, y1: reach, y2: reach,
                     stroke: colors.target, "stroke-width": 3, class: "whole"}),
        svg("text", {x: at + room / 2, y: box.bottom + 14, "text-anchor": "middle", class: "small"},
          String(BANDS[b][0] || 1))];
    });
    views.bands.replaceChildren(
      ...marks, ...bars,
      svg("text", {x: (box.left + box.right) / 2, y: box.bottom + 28, "text-anchor": "middle",
                   class: "small"}, "half waves, from … on; grey: the target"));
  };

  const draw = () => {
    if (!wide) return;
    const values = drawFunction();
    drawLoss();
    drawBands(values);
  };

  onWidth(root, (now) => {
    wide = now;
    if (network) draw();
    else reset();
  });
};
