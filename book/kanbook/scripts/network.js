// A Kolmogorov-Arnold network of splines, and three ways to train it: gradient descent in spline
// weights or in ReLU weights, and Gauss-Newton with the damping of kanlib.GaussNewton.
// A network is {widths, grids, weights}: a grid a layer, and Float64Array weights in the order
// (output, input, basis function). Functions are pure, but for `GaussNewton`, which keeps its damping.
globalThis.kanNetwork ??= (() => {
  const {fromRelu, gradientToRelu, halved, knots, local, prolong, size} = globalThis.kanSplines;

  // Standard normal numbers from a seed (mulberry32, Box and Muller).
  const normals = (seed) => {
    let state = seed >>> 0;
    const next = () => {
      state = (state + 0x6d2b79f5) >>> 0;
      let z = Math.imul(state ^ (state >>> 15), state | 1);
      z ^= z + Math.imul(z ^ (z >>> 7), z | 61);
      return ((z ^ (z >>> 14)) >>> 0) / 4294967296;
    };
    return () => Math.sqrt(-2 * Math.log(1 - next())) * Math.cos(2 * Math.PI * next());
  };

  const create = (widths, grids, draw, scale) => ({
    widths,
    grids,
    weights: grids.map((grid, l) =>
      Float64Array.from({length: widths[l] * widths[l + 1] * size(grid)}, () => scale * draw())),
  });

  const perEdge = (weights, count, map) => {
    const rows = [];
    for (let at = 0; at < weights.length; at += count) rows.push(map(weights.subarray(at, at + count)));
    const result = new Float64Array(rows.reduce((total, row) => total + row.length, 0));
    rows.reduce((at, row) => (result.set(row, at), at + row.length), 0);
    return result;
  };

  // The same function on grids of twice the intervals.
  const refine = ({widths, grids, weights}) => {
    const finer = grids.map(halved);
    return {
      widths,
      grids: finer,
      weights: weights.map((row, l) =>
        perEdge(row, size(grids[l]), (u) => prolong(grids[l], finer[l], u))),
    };
  };

  // The outputs at one point, and for each layer what the chain rule needs.
  const trace = (network, x, t) => {
    let values = [x];
    const layers = network.grids.map((grid, l) => {
      const count = size(grid), inputs = values.map((value) => local(grid, value, t[l]));
      const outputs = new Array(network.widths[l + 1]).fill(0);
      for (let q = 0; q < outputs.length; q++) {
        inputs.forEach(({first, values: basis}, p) => {
          const at = (q * inputs.length + p) * count + first;
          for (let i = 0; i < basis.length; i++) outputs[q] += basis[i] * network.weights[l][at + i];
        });
      }
      values = outputs;
      return inputs;
    });
    return {value: values[0], layers};
  };

  const tables = (network) => network.grids.map(knots);
  const predict = (network, points) => {
    const t = tables(network);
    return Float64Array.from(points, (x) => trace(network, x, t).value);
  };
  const meanSquare = (values, targets) =>
    values.reduce((sum, value, i) => sum + (value - targets[i]) ** 2, 0) / targets.length;
  const loss = (network, points, targets) => meanSquare(predict(network, points), targets);

  // Call `entry(column, derivative)` for each weight that the output at a traced point depends on.
  const derivatives = (network, layers, entry) => {
    let end = network.weights.reduce((total, row) => total + row.length, 0), above = [1];
    for (let l = layers.length - 1; l >= 0; l--) {
      const count = size(network.grids[l]), weights = network.weights[l], inputs = layers[l];
      const start = end - weights.length, below = new Array(inputs.length).fill(0);
      above.forEach((cotangent, q) => inputs.forEach(({first, values, slopes}, p) => {
        const at = (q * inputs.length + p) * count + first;
        values.forEach((value, i) => {
          entry(start + at + i, cotangent * value);
          below[p] += cotangent * slopes[i] * weights[at + i];
        });
      }));
      above = below;
      end = start;
    }
  };

  const total = (network) => network.weights.reduce((sum, row) => sum + row.length, 0);

  // The gradient of the mean square error, a row a layer, in spline weights.
  const gradient = (network, points, targets) => {
    const t = tables(network), flat = new Float64Array(total(network));
    points.forEach((x, k) => {
      const {value, layers} = trace(network, x, t);
      const factor = (2 * (value - targets[k])) / points.length;
      derivatives(network, layers, (column, d) => (flat[column] += factor * d));
    });
    return split(network, flat);
  };

  const split = (network, flat) => {
    let at = 0;
    return network.weights.map((row) => flat.subarray(at, (at += row.length)));
  };
  const moved = (network, step, length) => ({
    ...network,
    weights: network.weights.map((row, l) => row.map((value, i) => value + length * step[l][i])),
  });

  // The direction of gradient descent, in spline weights. In ReLU weights w = A^T u the gradient is
  // A^{-1} g, and the step A^{-T} A^{-1} g (eqs. 16 and 17).
  const descent = (network, slope, basis) => slope.map((row, l) => {
    const grid = network.grids[l];
    const back = basis === "relu" ? (g) => fromRelu(grid, gradientToRelu(grid, g)) : (g) => g;
    return perEdge(row, size(grid), (g) => back(g).map((value) => -value));
  });
  const dot = (a, b) =>
    a.reduce((sum, row, l) => row.reduce((part, value, i) => part + value * b[l][i], sum), 0);

  // One step of gradient descent. Its length, at first twice the last one, is halved until the loss
  // falls by a part of what the slope promises.
  class Descent {
    constructor(basis) {
      this.basis = basis;
      this.length = 1;
    }

    step(network, points, targets) {
      const slope = gradient(network, points, targets), before = loss(network, points, targets);
      const direction = descent(network, slope, this.basis), promise = dot(slope, direction);
      this.length *= 2;
      for (let tries = 0; tries < 80; tries++) {
        const next = moved(network, direction, this.length);
        if (loss(next, points, targets) <= before + 1e-4 * this.length * promise) return next;
        this.length /= 2;
      }
      return network;
    }
  }

  // The lower triangle L L^T = matrix, in place; false if the matrix is not positive definite.
  const cholesky = (matrix, count) => {
    for (let j = 0; j < count; j++) {
      for (let i = j; i < count; i++) {
        let sum = matrix[i * count + j];
        for (let k = 0; k < j; k++) sum -= matrix[i * count + k] * matrix[j * count + k];
        if (i > j) matrix[i * count + j] = sum / matrix[j * count + j];
        else if (sum > 0) matrix[j * count + j] = Math.sqrt(sum);
        else return false;
      }
    }
    return true;
  };
  const solve = (factor, right) => {
    const count = right.length, x = Float64Array.from(right);
    for (let i = 0; i < count; i++) {
      for (let k = 0; k < i; k++) x[i] -= factor[i * count + k] * x[k];
      x[i] /= factor[i * count + i];
    }
    for (let i = count - 1; i >= 0; i--) {
      for (let k = i + 1; k < count; k++) x[i] -= factor[k * count + i] * x[k];
      x[i] /= factor[i * count + i];
    }
    return x;
  };

  // J^T J, J^T r and |r|^2, where r are the errors over the square root of their number.
  const normalEquations = (network, points, targets) => {
    const count = total(network), t = tables(network);
    const gram = new Float64Array(count * count), right = new Float64Array(count);
    let square = 0;
    points.forEach((x, k) => {
      const {value, layers} = trace(network, x, t), error = value - targets[k];
      const columns = [], row = [];
      derivatives(network, layers, (column, d) => (columns.push(column), row.push(d)));
      columns.forEach((i, a) => {
        right[i] += (row[a] * error) / points.length;
        columns.forEach((j, b) => (gram[i * count + j] += (row[a] * row[b]) / points.length));
      });
      square += error ** 2 / points.length;
    });
    return {gram, right, square, count};
  };

  // Gauss-Newton with Marquardt's scaling; the damping follows from the gain (Nielsen).
  class GaussNewton {
    constructor(damping = 1e-3) {
      this.damping = damping;
      this.growth = 2;
    }

    step(network, points, targets) {
      const {gram, right, square, count} = normalEquations(network, points, targets);
      const diagonal = Float64Array.from({length: count}, (_, i) => gram[i * (count + 1)]);
      const floor = 1e-12 * diagonal.reduce((a, b) => Math.max(a, b), 0), start = this.damping;
      for (let tries = 0; tries < 20; tries++) {
        const matrix = Float64Array.from(gram);
        const added = diagonal.map((value) => this.damping * Math.max(value, floor));
        added.forEach((value, i) => (matrix[i * (count + 1)] += value));
        if (cholesky(matrix, count)) {
          const delta = solve(matrix, right).map((value) => -value);
          const next = moved(network, split(network, delta), 1), after = loss(next, points, targets);
          if (after < square) {
            const predicted = delta.reduce((sum, d, i) => sum + (added[i] * d - right[i]) * d, 0);
            const gain = (square - after) / predicted;
            this.damping = Math.max(this.damping * Math.max(0.2, 1 - (2 * gain - 1) ** 3), 1e-16);
            this.growth = 2;
            return next;
          }
        }
        this.damping *= this.growth;
        this.growth *= 2;
      }
      this.damping = start;
      this.growth = 2;
      return network;
    }
  }

  // Amplitudes of cos(pi k x), k = 0 ... N - 1, of values at the N midpoints of [0, 1]: the discrete
  // Fourier transform of the even continuation, which has no jump at the ends.
  const amplitudes = (values) => Float64Array.from(values, (_, k) => {
    const sum = values.reduce(
      (part, value, i) => part + value * Math.cos((Math.PI * k * (i + 0.5)) / values.length), 0);
    return (Math.abs(sum) * (k ? 2 : 1)) / values.length;
  });

  return {
    normals, create, refine, predict, loss, gradient, descent, moved, amplitudes, total,
    Descent, GaussNewton,
  };
})();
