/**
 * The published algorithms in float64, on plain arrays: what the optimizers in
 * 32 bits must agree with. Written from the papers and from the documentation of
 * the libraries named, in whole-tensor notation, and with nothing of lowbit.
 */

/** One tensor; p is changed in place. */
export type Algorithm = (p: Float64Array, shape: readonly number[]) => Step;
type Step = (g: Float64Array, lr: number, t: number) => void;

const norm = (x: Float64Array) =>
  Math.sqrt(x.reduce((sum, one) => sum + one * one, 0));
export const rms = (x: Float64Array) => norm(x) / Math.sqrt(x.length);
export const zeros = (p: Float64Array) => new Float64Array(p.length);

/** torch.optim.Adam and AdamW, with amsgrad. */
export const adam =
  ({
    beta1 = 0.9,
    beta2 = 0.999,
    eps = 1e-8,
    weightDecay = 0,
    decoupled = false,
    amsgrad = false,
  }): Algorithm =>
  (p) => {
    const [m, v, highest] = [zeros(p), zeros(p), zeros(p)];
    return (g, lr, t) =>
      p.forEach((_, i) => {
        let d = g[i]!;
        if (decoupled) p[i]! -= lr * weightDecay * p[i]!;
        else d += weightDecay * p[i]!;
        m[i] = beta1 * m[i]! + (1 - beta1) * d;
        v[i] = beta2 * v[i]! + (1 - beta2) * d * d;
        highest[i] = Math.max(highest[i]!, v[i]!);
        const second =
          (amsgrad ? highest[i]! : v[i]!) / (1 - Math.pow(beta2, t));
        p[i]! -=
          (lr * (m[i]! / (1 - Math.pow(beta1, t)))) / (Math.sqrt(second) + eps);
      });
  };

/** torch.optim.RMSprop without centering. */
export const rmsprop =
  ({ alpha = 0.99, eps = 1e-8, momentum = 0, weightDecay = 0 }): Algorithm =>
  (p) => {
    const [square, buffer] = [zeros(p), zeros(p)];
    return (g, lr) =>
      p.forEach((_, i) => {
        const d = g[i]! + weightDecay * p[i]!;
        square[i] = alpha * square[i]! + (1 - alpha) * d * d;
        const step = d / (Math.sqrt(square[i]!) + eps);
        if (momentum === 0) p[i]! -= lr * step;
        else {
          buffer[i] = momentum * buffer[i]! + step;
          p[i]! -= lr * buffer[i]!;
        }
      });
  };

/** torch.optim.Adagrad. */
export const adagrad =
  ({
    lrDecay = 0,
    eps = 1e-10,
    initialAccumulator = 0,
    weightDecay = 0,
  }): Algorithm =>
  (p) => {
    const sum = zeros(p).fill(initialAccumulator);
    return (g, lr, t) =>
      p.forEach((_, i) => {
        const d = g[i]! + weightDecay * p[i]!;
        sum[i]! += d * d;
        p[i]! -=
          ((lr / (1 + (t - 1) * lrDecay)) * d) / (Math.sqrt(sum[i]!) + eps);
      });
  };

/** Lion, arXiv 2302.06675, program 1. */
export const lion =
  ({ beta1 = 0.9, beta2 = 0.99, weightDecay = 0 }): Algorithm =>
  (p) => {
    const m = zeros(p);
    return (g, lr) =>
      p.forEach((_, i) => {
        const c = beta1 * m[i]! + (1 - beta1) * g[i]!;
        m[i] = beta2 * m[i]! + (1 - beta2) * g[i]!;
        p[i]! -= lr * (Math.sign(c) + weightDecay * p[i]!);
      });
  };

/** LARS, arXiv 1708.03888, algorithm 1. */
export const lars =
  ({
    momentum = 0.9,
    trustCoefficient = 1e-3,
    weightDecay = 5e-4,
  }): Algorithm =>
  (p) => {
    const v = zeros(p);
    return (g, lr) => {
      const size = norm(p);
      const local = (trustCoefficient * size) / (norm(g) + weightDecay * size);
      v.forEach((_, i) => {
        v[i] = momentum * v[i]! + lr * local * (g[i]! + weightDecay * p[i]!);
      });
      v.forEach((one, i) => (p[i]! -= one));
    };
  };

/** bitsandbytes' LARS: SGD with momentum, the update's norm capped. */
export const cappedMomentum =
  ({ momentum = 0.9, maxUnorm = 0.02, weightDecay = 0 }): Algorithm =>
  (p) => {
    const m = zeros(p);
    return (g, lr) => {
      m.forEach((_, i) => {
        m[i] = momentum * m[i]! + g[i]! + weightDecay * p[i]!;
      });
      const scale = Math.min(1, (maxUnorm * norm(p)) / norm(m));
      m.forEach((one, i) => (p[i]! -= lr * scale * one));
    };
  };

export interface LambOptions {
  readonly beta1?: number;
  readonly beta2?: number;
  readonly eps?: number;
  readonly weightDecay?: number;
}

/** LAMB, arXiv 1904.00962, algorithm 2, phi being the identity; or bitsandbytes' with a cap. */
export const lamb =
  ({
    beta1 = 0.9,
    beta2 = 0.999,
    eps = 1e-6,
    weightDecay = 0.01,
    maxUnorm = 0,
  }: LambOptions & { readonly maxUnorm?: number }): Algorithm =>
  (p) => {
    const [m, v] = [zeros(p), zeros(p)];
    return (g, lr, t) => {
      const r = g.map((one, i) => {
        m[i] = beta1 * m[i]! + (1 - beta1) * one;
        v[i] = beta2 * v[i]! + (1 - beta2) * one * one;
        const first = m[i]! / (1 - beta1 ** t);
        const second = v[i]! / (1 - beta2 ** t);
        return second === 0 ? 0 : first / (Math.sqrt(second) + eps);
      });
      if (maxUnorm > 0) {
        const cap = maxUnorm * norm(p) + eps;
        const scale = norm(r) > cap ? cap / norm(r) : 1;
        p.forEach((one, i) => {
          p[i] = one - lr * weightDecay * one - lr * scale * r[i]!;
        });
        return;
      }
      const u = r.map((one, i) => one + weightDecay * p[i]!);
      const ratio = norm(p) / norm(u);
      u.forEach((one, i) => (p[i]! -= lr * ratio * one));
    };
  };

/** AdEMAMix, arXiv 2409.03137, algorithm 1, with its two schedulers. */
export const ademamix =
  ({
    beta1 = 0.9,
    beta2 = 0.999,
    beta3 = 0.9999,
    alpha = 5,
    eps = 1e-8,
    weightDecay = 1e-2,
    tAlpha = 0,
    tBeta3 = 0,
  }): Algorithm =>
  (p) => {
    const [m1, m2, v] = [zeros(p), zeros(p), zeros(p)];
    return (g, lr, t) => {
      const a = tAlpha ? Math.min((t * alpha) / tAlpha, alpha) : alpha;
      let b3 = beta3;
      if (tBeta3) {
        const [start, end] = [Math.log(beta1), Math.log(beta3)];
        const part = t / tBeta3;
        const exponent = (start * end) / ((1 - part) * end + part * start);
        // Past the end of the schedule the paper's minimum takes beta3.
        if (part < 1) b3 = Math.min(Math.exp(exponent), beta3);
      }
      p.forEach((_, i) => {
        m1[i] = beta1 * m1[i]! + (1 - beta1) * g[i]!;
        m2[i] = b3 * m2[i]! + (1 - b3) * g[i]!;
        v[i] = beta2 * v[i]! + (1 - beta2) * g[i]! * g[i]!;
        const first = m1[i]! / (1 - beta1 ** t);
        const root = Math.sqrt(v[i]! / (1 - beta2 ** t));
        p[i]! -=
          lr * ((first + a * m2[i]!) / (root + eps) + weightDecay * p[i]!);
      });
    };
  };

/** SGD with momentum and decoupled decay, arXiv 1711.05101, algorithm 1, decay times lr. */
export const sgdw =
  ({
    momentum = 0.9,
    dampening = 0,
    nesterov = false,
    weightDecay = 1e-2,
  }): Algorithm =>
  (p) => {
    const m = zeros(p);
    return (g, lr, t) =>
      p.forEach((one, i) => {
        m[i] = t === 1 ? g[i]! : momentum * m[i]! + (1 - dampening) * g[i]!;
        const step = nesterov ? g[i]! + momentum * m[i]! : m[i]!;
        p[i] = one - lr * weightDecay * one - lr * step;
      });
  };

/** torch.optim.NAdam: the product of all mu is carried along. */
export const nadam =
  ({
    beta1 = 0.9,
    beta2 = 0.999,
    eps = 1e-8,
    weightDecay = 0,
    momentumDecay = 4e-3,
    decoupledWeightDecay = false,
  }): Algorithm =>
  (p) => {
    const [m, v] = [zeros(p), zeros(p)];
    let product = 1;
    return (g, lr, t) => {
      const mu = (step: number) =>
        beta1 * (1 - 0.5 * Math.pow(0.96, step * momentumDecay));
      product *= mu(t);
      p.forEach((_, i) => {
        let d = g[i]!;
        if (decoupledWeightDecay) p[i]! *= 1 - lr * weightDecay;
        else d += weightDecay * p[i]!;
        m[i] = beta1 * m[i]! + (1 - beta1) * d;
        v[i] = beta2 * v[i]! + (1 - beta2) * d * d;
        const denominator = Math.sqrt(v[i]! / (1 - beta2 ** t)) + eps;
        p[i]! -= (lr * (1 - mu(t)) * d) / (1 - product) / denominator;
        p[i]! -=
          (lr * mu(t + 1) * m[i]!) / (1 - product * mu(t + 1)) / denominator;
      });
    };
  };

/** Adan, arXiv 2208.06677, algorithm 1, its betas being 1 - ours, with bias corrections and the proximal decay. */
export const adan =
  ({
    beta1 = 0.98,
    beta2 = 0.92,
    beta3 = 0.99,
    eps = 1e-8,
    weightDecay = 0,
  }): Algorithm =>
  (p) => {
    const [m, v, n] = [zeros(p), zeros(p), zeros(p)];
    let before: Float64Array | undefined;
    return (g, lr, t) => {
      p.forEach((one, i) => {
        const change = g[i]! - (before ?? g)[i]!;
        m[i] = beta1 * m[i]! + (1 - beta1) * g[i]!;
        v[i] = beta2 * v[i]! + (1 - beta2) * change;
        n[i] = beta3 * n[i]! + (1 - beta3) * (g[i]! + beta2 * change) ** 2;
        const eta = lr / (Math.sqrt(n[i]! / (1 - beta3 ** t)) + eps);
        const u = m[i]! / (1 - beta1 ** t) + (beta2 * v[i]!) / (1 - beta2 ** t);
        p[i] = (one - eta * u) / (1 + lr * weightDecay);
      });
      before = g.slice();
    };
  };

/** Schedule-free AdamW, arXiv 2405.15682, algorithm 1: three sequences, of which p is y. */
export function scheduleFreeAdamw({
  beta1 = 0.9,
  beta2 = 0.999,
  eps = 1e-8,
  weightDecay = 0,
}): Algorithm & { x(p: Float64Array): Float64Array } {
  const averages = new Map<Float64Array, Float64Array>();
  const algorithm: Algorithm = (p) => {
    const [z, x] = [p.slice(), p.slice()];
    averages.set(p, x);
    const v = zeros(p);
    let sum = 0;
    return (g, lr, t) => {
      sum += lr * lr;
      const c = (lr * lr) / sum;
      p.forEach((y, i) => {
        v[i] = beta2 * v[i]! + (1 - beta2) * g[i]! * g[i]!;
        const denominator = Math.sqrt(v[i]! / (1 - beta2 ** t)) + eps;
        z[i]! -= lr * (g[i]! / denominator + weightDecay * y);
        x[i] = (1 - c) * x[i]! + c * z[i]!;
        p[i] = (1 - beta1) * z[i]! + beta1 * x[i]!;
      });
    };
  };
  return Object.assign(algorithm, {
    x: (p: Float64Array) => averages.get(p)!,
  });
}
