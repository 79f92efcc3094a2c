// What the live figures are drawn with: elements, buttons, choices and lines.
globalThis.kanParts ??= (() => {
  const SPACE = "http://www.w3.org/2000/svg";

  const svg = (name, attributes = {}, ...children) => {
    const node = document.createElementNS(SPACE, name);
    for (const [key, value] of Object.entries(attributes)) node.setAttribute(key, value);
    node.append(...children);
    return node;
  };
  const html = (name, attributes = {}, ...children) => {
    const node = document.createElement(name);
    for (const [key, value] of Object.entries(attributes)) node.setAttribute(key, value);
    node.append(...children);
    return node;
  };

  const button = (text, act) => {
    const node = html("button", {type: "button"}, text);
    node.addEventListener("click", act);
    return node;
  };

  // Buttons of which one is pressed: values and what they are called. `mark` presses one.
  const choice = (name, values, act) => {
    const buttons = values.map(([value, text]) => button(text, () => act(value)));
    const label = html("span", {}, name);
    const node = html("span", {role: "group", "aria-label": name, class: "choice"}, label, ...buttons);
    const mark = (value) => buttons.forEach((each, i) =>
      each.setAttribute("aria-pressed", values[i][0] === value));
    return {node, mark};
  };

  const path = (xs, ys) =>
    xs.map((x, i) => `${i ? "L" : "M"}${x.toFixed(2)},${ys[i].toFixed(2)}`).join("");

  const still = () => matchMedia("(prefers-reduced-motion: reduce)").matches;

  // Call `act(share)` from 0 to 1 over some milliseconds; the result stops it.
  const glide = (duration, act, done = () => {}) => {
    if (still()) {
      act(1);
      done();
      return () => {};
    }
    const start = performance.now();
    let frame = 0;
    const move = (now) => {
      const share = Math.min(1, Math.max(0, (now - start) / duration));
      act(share * share * (3 - 2 * share));
      if (share < 1) frame = requestAnimationFrame(move);
      else done();
    };
    frame = requestAnimationFrame(move);
    return () => cancelAnimationFrame(frame);
  };

  // Call `act(width)` now and whenever the width of what a figure holds changes.
  const onWidth = (node, act) => {
    let last = 0;
    const look = () => {
      const {paddingLeft, paddingRight} = getComputedStyle(node);
      const width = Math.floor(node.clientWidth - parseFloat(paddingLeft) - parseFloat(paddingRight));
      if (width > 0 && width !== last) act((last = width));
    };
    new ResizeObserver(look).observe(node);
    look();
  };

  // 2.3e-5 as 2.3 × 10⁻⁵.
  const power = (value) => {
    if (!value) return "0";
    const [digits, exponent] = value.toExponential(1).split("e");
    const raised = [...String(Number(exponent))].map((c) => "⁰¹²³⁴⁵⁶⁷⁸⁹"[c] ?? "⁻").join("");
    return Number(exponent) ? `${digits} × 10${raised}` : digits;
  };

  return {svg, html, button, choice, path, still, glide, onWidth, power};
})();
globalThis.kanLive ??= {};
