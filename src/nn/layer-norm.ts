type Floats = Float32Array<ArrayBuffer>;

/** What the backward pass needs of the forward pass. */
export interface Normalized {
  /** Rows with mean 0 and variance 1. */
  readonly values: Floats;
  /** 1 / sqrt(variance + eps) of each row. */
  readonly inverse: Float64Array;
}

/** Normalizes the rows of `x` [rows, width] in place. Sums are float64. */
export function normalizeRows(x: Floats, width: number, eps: number) {
  const inverse = new Float64Array(x.length / width);
  for (let row = 0, start = 0; start < x.length; row++, start += width) {
    const end = start + width;
    let mean = 0;
    for (let i = start; i < end; i++) mean += x[i]!;
    mean /= width;
    let variance = 0;
    for (let i = start; i < end; i++) variance += (x[i]! - mean) ** 2;
    inverse[row] = 1 / Math.sqrt(variance / width + eps);
    for (let i = start; i < end; i++) x[i] = (x[i]! - mean) * inverse[row]!;
  }
  return { values: x, inverse } satisfies Normalized;
}

/** scale * x + bias for each row of `x`. */
export function scaleRows(x: Floats, scale: Floats, bias: Floats): Floats {
  const width = scale.length;
  const out = new Float32Array(x.length);
  for (let start = 0; start < x.length; start += width)
    for (let j = 0; j < width; j++)
      out[start + j] = x[start + j]! * scale[j]! + bias[j]!;
  return out;
}

/**
 * Takes `gradient` of the norm's output back to its input, and adds to the
 * gradients of scale and bias, summed in float64.
 *
 * @param each receives the gradient of a row's input, in an array that the
 * next row overwrites
 */
export function normBackward(
  { values, inverse }: Normalized,
  scale: Floats,
  gradient: ArrayLike<number>,
  into: { readonly scale: Floats; readonly bias: Floats },
  each: (row: number, gradient: Float64Array) => void,
): void {
  const width = scale.length;
  const input = new Float64Array(width);
  const ofScale = new Float64Array(width);
  const ofBias = new Float64Array(width);
  for (let row = 0; row < inverse.length; row++) {
    const start = row * width;
    let mean = 0;
    let along = 0;
    for (let j = 0; j < width; j++) {
      const g = gradient[start + j]!;
      const x = values[start + j]!;
      ofScale[j]! += g * x;
      ofBias[j]! += g;
      input[j] = g * scale[j]!;
      mean += input[j]!;
      along += input[j]! * x;
    }
    for (let j = 0; j < width; j++)
      input[j] =
        inverse[row]! *
        (input[j]! - mean / width - (values[start + j]! * along) / width);
    each(row, input);
  }
  for (let j = 0; j < width; j++) {
    into.scale[j]! += ofScale[j]!;
    into.bias[j]! += ofBias[j]!;
  }
}
