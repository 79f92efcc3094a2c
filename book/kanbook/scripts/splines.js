// Splines on a grid, as kanlib has them: B-splines, exact refinement, and the ReLU basis beside them.
// A grid is {order, points}: the order r, and n + 1 increasing breakpoints. Functions are pure.
globalThis.kanSplines ??= (() => {

  const uniform = (order, n, [a, b] = [0, 1]) => ({
    order,
    points: Array.from({length: n + 1}, (_, i) => (i < n ? a + ((b - a) * i) / n : b)),
  });

  const intervals = (grid) => grid.points.length - 1;
  const size = (grid) => intervals(grid) + grid.order - 1;

  // t_{1-r}, ..., t_{n+r-1}: beyond the ends the spacing of the end interval repeats.
  const knots = ({order, points}) => {
    const last = points.length - 1, left = [], right = [];
    for (let i = 1; i < order; i++) {
      left.unshift(points[0] - i * (points[1] - points[0]));
      right.push(points[last] + i * (points[last] - points[last - 1]));
    }
    return [...left, ...points, ...right];
  };

  // The interval that holds x; the last one is closed.
  const locate = (points, x) => {
    let low = 0, high = points.length - 1;
    while (high - low > 1) {
      const middle = (low + high) >> 1;
      if (x < points[middle]) high = middle;
      else low = middle;
    }
    return low;
  };

  // Values of the `order` B-splines that do not vanish on interval m, by the recursion of eq. (2);
  // `lead` is the index of the knot that starts interval m.
  const recursion = (t, lead, order, x) => {
    let values = [1];
    for (let q = 1; q < order; q++) {
      const next = new Array(q + 1).fill(0);
      for (let i = 0; i < q; i++) {
        const left = t[lead + 1 - q + i], right = t[lead + 1 + i];
        const part = values[i] / (right - left);
        next[i] += (right - x) * part;
        next[i + 1] += (x - left) * part;
      }
      values = next;
    }
    return values;
  };

  // The r B-splines that count at x: index of the first, values, and slopes. Outside [a, b] each
  // goes on linearly from the end.
  const local = (grid, x, t = knots(grid)) => {
    const {order: r, points} = grid;
    const inside = Math.min(Math.max(x, points[0]), points[points.length - 1]);
    const first = locate(points, inside), lead = first + r - 1;
    const values = recursion(t, lead, r, inside), slopes = new Array(r).fill(0);
    if (r > 1) {
      recursion(t, lead, r - 1, inside).forEach((value, i) => {
        const part = ((r - 1) * value) / (t[lead + 1 + i] - t[lead + 2 - r + i]);
        slopes[i] -= part;
        slopes[i + 1] += part;
      });
    }
    if (x !== inside) slopes.forEach((slope, i) => (values[i] += (x - inside) * slope));
    return {first, values, slopes};
  };

  const evaluate = (grid, u, x, t = knots(grid)) => {
    const {first, values} = local(grid, x, t);
    return values.reduce((sum, value, i) => sum + value * u[first + i], 0);
  };

  const halved = ({order, points}) => ({
    order,
    points: points.flatMap((t, i) => (i ? [0.5 * (points[i - 1] + t), t] : [t])),
  });

  // The coefficients of the same function on a finer grid, which has all points of the first: fine
  // coefficient j is the blossom of the polynomial where it starts, at the knots j + 1 ... j + r - 1.
  const prolong = (coarse, fine, u) => {
    const r = coarse.order, t = knots(coarse), s = knots(fine);
    return Float64Array.from({length: size(fine)}, (_, j) => {
      const start = Math.max(j, r - 1), m = locate(coarse.points, (s[start] + s[start + 1]) / 2);
      let row = Array.from(u.slice(m, m + r));
      for (let q = 1; q < r; q++) {
        const x = s[j + q];
        row = row.slice(1).map((value, i) => {
          const left = t[m + q + i], right = t[m + r + i];
          return ((right - x) * row[i] + (x - left) * value) / (right - left);
        });
      }
      return row[0];
    });
  };

  // Where a coefficient acts: the mean of r - 1 knots, in [a, b].
  const greville = (grid) => {
    const t = knots(grid), r = grid.order, {points} = grid;
    return Array.from({length: size(grid)}, (_, j) => {
      const sum = t.slice(j + 1, j + r).reduce((total, value) => total + value, 0);
      return Math.min(Math.max(sum / (r - 1), points[0]), points[points.length - 1]);
    });
  };

  // 1 / (t_{i+k-1} - t_i), the scalings of A = Delta D_r Delta ... D_2 Delta (Lemma 2).
  const scalings = (grid) => {
    const t = knots(grid), count = size(grid);
    return Array.from({length: grid.order - 1}, (_, k) =>
      Float64Array.from({length: count}, (_, i) => 1 / (t[i + k + 1] - t[i])));
  };

  const sums = (x) => { for (let i = 1; i < x.length; i++) x[i] += x[i - 1]; };
  const sumsFromTheEnd = (x) => { for (let i = x.length - 2; i >= 0; i--) x[i] += x[i + 1]; };

  // What takes spline weights u to ReLU weights w = A^T u, and back; and gradients to gradients.
  const toRelu = (grid, u) => {
    const x = Float64Array.from(u);
    const difference = () => { for (let i = x.length - 1; i > 0; i--) x[i] -= x[i - 1]; };
    for (const d of scalings(grid).reverse()) {
      difference();
      d.forEach((value, i) => (x[i] *= value));
    }
    difference();
    return x;
  };
  const fromRelu = (grid, w) => {
    const x = Float64Array.from(w);
    sums(x);
    for (const d of scalings(grid)) {
      d.forEach((value, i) => (x[i] /= value));
      sums(x);
    }
    return x;
  };
  const gradientToRelu = (grid, g) => {
    const x = Float64Array.from(g);
    for (const d of scalings(grid).reverse()) {
      sumsFromTheEnd(x);
      d.forEach((value, i) => (x[i] /= value));
    }
    sumsFromTheEnd(x);
    return x;
  };

  return {
    uniform, intervals, size, knots, local, evaluate, halved, prolong, greville,
    toRelu, fromRelu, gradientToRelu,
  };
})();
