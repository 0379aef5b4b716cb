/** As published.ts: the algorithms that keep values of rows and columns. */
import {
  adam,
  rms,
  zeros,
  type Algorithm,
  type LambOptions,
} from "./published.ts";

/** Splits a shape into its matrices: the last two axes; undefined for a vector. */
function matrices(shape: readonly number[]) {
  if (shape.length < 2) return undefined;
  const [rows, columns] = shape.slice(-2) as [number, number];
  const count = shape.slice(0, -2).reduce((a, b) => a * b, 1);
  return { rows, columns, count };
}

/** Adafactor, arXiv 1804.04235, algorithms 4 and 5; momentum of the steps as in tensor2tensor. */
export const adafactor =
  ({
    beta1 = 0,
    decayRate = 0.8,
    eps1 = 1e-30,
    eps2 = 1e-3,
    clipThreshold = 1,
    relativeStep = true,
    scaleParameter = true,
    weightDecay = 0,
  }): Algorithm =>
  (p, shape) => {
    const layout = matrices(shape);
    const v = zeros(p);
    const m = zeros(p);
    const R = new Map<string, number>();
    const C = new Map<string, number>();
    return (g, lr, t) => {
      const beta2 = 1 - Math.pow(t, -decayRate);
      const rho = relativeStep ? Math.min(lr, 1 / Math.sqrt(t)) : lr;
      const step = scaleParameter ? Math.max(eps2, rms(p)) * rho : rho;
      if (!layout)
        v.forEach((_, i) => {
          v[i] = beta2 * v[i]! + (1 - beta2) * (g[i]! * g[i]! + eps1);
        });
      else {
        const { rows, columns, count } = layout;
        for (let b = 0; b < count; b++) {
          const at = (i: number, j: number) => (b * rows + i) * columns + j;
          const square = (i: number, j: number) => g[at(i, j)]! ** 2 + eps1;
          let total = 0;
          // The paper's R and C are sums, and V is R C / (the sum of R).
          for (let i = 0; i < rows; i++) {
            let sum = 0;
            for (let j = 0; j < columns; j++) sum += square(i, j);
            const r = beta2 * (R.get(`${b} ${i}`) ?? 0) + (1 - beta2) * sum;
            R.set(`${b} ${i}`, r);
            total += r;
          }
          for (let j = 0; j < columns; j++) {
            let sum = 0;
            for (let i = 0; i < rows; i++) sum += square(i, j);
            C.set(
              `${b} ${j}`,
              beta2 * (C.get(`${b} ${j}`) ?? 0) + (1 - beta2) * sum,
            );
          }
          for (let i = 0; i < rows; i++)
            for (let j = 0; j < columns; j++)
              v[at(i, j)] = (R.get(`${b} ${i}`)! * C.get(`${b} ${j}`)!) / total;
        }
      }
      const u = g.map((one, i) => one / Math.sqrt(v[i]!));
      const clip = Math.max(1, rms(u) / clipThreshold);
      u.forEach((one, i) => {
        let change = (step * one) / clip;
        if (beta1 > 0) change = m[i] = beta1 * m[i]! + (1 - beta1) * change;
        p[i] = p[i]! * (1 - lr * weightDecay) - change;
      });
    };
  };

/** SM3-II, arXiv 1901.11150, over an explicit cover; momentum as in its section 5. */
export const sm3 =
  ({ momentum = 0.9, weightDecay = 0 }): Algorithm =>
  (p, shape) => {
    const layout = matrices(shape);
    // The sets of the cover that each element is in.
    const sets = Array.from(p, (_, i): string[] => {
      if (!layout) return [`element ${i}`];
      const { rows, columns } = layout;
      const b = Math.floor(i / (rows * columns));
      const row = Math.floor(i / columns) % rows;
      return [`${b} row ${row}`, `${b} column ${i % columns}`];
    });
    let mu = new Map<string, number>();
    const m = zeros(p);
    return (g, lr) => {
      const next = new Map<string, number>();
      p.forEach((_, i) => {
        const nu =
          Math.min(...sets[i]!.map((set) => mu.get(set) ?? 0)) + g[i]! ** 2;
        for (const set of sets[i]!)
          next.set(set, Math.max(next.get(set) ?? 0, nu));
        const u = nu > 0 ? g[i]! / Math.sqrt(nu) : 0;
        m[i] = momentum * m[i]! + (1 - momentum) * u;
        p[i] = p[i]! * (1 - lr * weightDecay) - lr * m[i]!;
      });
      mu = next;
    };
  };

/** AdamW with Adafactor's rows and columns in place of v: arXiv 2309.01507, 4-bit Factor, unquantized. */
export const factor =
  ({
    beta1 = 0.9,
    beta2 = 0.999,
    eps = 1e-8,
    weightDecay = 1e-2,
  }: LambOptions): Algorithm =>
  (p, shape) => {
    const layout = matrices(shape);
    if (!layout)
      return adam({ beta1, beta2, eps, weightDecay, decoupled: true })(
        p,
        shape,
      );
    const { rows, columns, count } = layout;
    const m = zeros(p);
    const row = new Float64Array(count * rows);
    const col = new Float64Array(count * columns);
    return (g, lr, t) => {
      for (let b = 0; b < count; b++) {
        const slice = (i: number, j: number) => (b * rows + i) * columns + j;
        for (let i = 0; i < rows; i++) {
          let mean = 0;
          for (let j = 0; j < columns; j++)
            mean += g[slice(i, j)]! ** 2 / columns;
          row[b * rows + i] = beta2 * row[b * rows + i]! + (1 - beta2) * mean;
        }
        for (let j = 0; j < columns; j++) {
          let mean = 0;
          for (let i = 0; i < rows; i++) mean += g[slice(i, j)]! ** 2 / rows;
          col[b * columns + j] =
            beta2 * col[b * columns + j]! + (1 - beta2) * mean;
        }
        const ofRows =
          row.slice(b * rows, (b + 1) * rows).reduce((a, x) => a + x) / rows;
        for (let i = 0; i < rows; i++)
          for (let j = 0; j < columns; j++) {
            const k = slice(i, j);
            const v = (row[b * rows + i]! / ofRows) * col[b * columns + j]!;
            m[k] = beta1 * m[k]! + (1 - beta1) * g[k]!;
            p[k]! -= lr * weightDecay * p[k]!;
            p[k]! -=
              (lr * (m[k]! / (1 - beta1 ** t))) /
              (Math.sqrt(v / (1 - beta2 ** t)) + eps);
          }
      }
    };
  };
