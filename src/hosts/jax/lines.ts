/**
 * Functions of a code or of a value as straight lines between few points, for
 * where jax-js is to compute them: a look-up is a kernel of its own there, and
 * arithmetic becomes part of the kernel that needs it.
 */
import { bitsFloat } from "../../formats/encode.ts";
import type { Tensor } from "./contract.ts";
import type { Scope } from "./scope.ts";

/** From x on, up to the next line: y + slope (x' - x), in float32. */
export interface Line {
  readonly x: number;
  readonly y: number;
  readonly slope: number;
  /** The last y that it was drawn through. */
  readonly end: number;
}

const { fround } = Math;
const at = ({ x, y, slope }: Omit<Line, "end">, of: number) =>
  fround(y + fround(slope * fround(of - x)));

/** The smallest normal float32. */
const least = 2 ** -126;
/** With more lines a look-up costs less. */
const mostLines = 40;
const fewEntries = 16;

/**
 * The fewest lines, each as long as it can be, that take every x to its y.
 *
 * @param xs ascending, float32
 * @param fits whether a line that gives `value` is near enough to `y`
 * @returns undefined when there would be more than {@link mostLines}
 */
function linesThrough(
  xs: ArrayLike<number>,
  ys: ArrayLike<number>,
  fits: (value: number, y: number) => boolean,
): Line[] | undefined {
  const lines: Line[] = [];
  for (let first = 0; first < xs.length;) {
    let line: Line = {
      x: xs[first]!,
      y: ys[first]!,
      slope: 0,
      end: ys[first]!,
    };
    let next = first + 1;
    // Numbers of all sizes lie around 0, so a threshold there must be exact.
    for (; next < xs.length && Math.abs(xs[next]!) > least; next++) {
      const end = ys[next]!;
      const slope = fround((end - line.y) / (xs[next]! - line.x));
      const longer = { ...line, slope, end };
      let k = first;
      while (k <= next && fits(at(longer, xs[k]!), ys[k]!)) k++;
      if (k <= next) break;
      line = longer;
    }
    lines.push(line);
    if (lines.length > mostLines) return undefined;
    first = next;
  }
  return lines;
}

/**
 * The entries of a codebook by their index: to 4e-7 of themselves, and exact
 * where there are few, or where one is 0.
 */
export const decodingLines = (values: Float32Array): Line[] | undefined =>
  linesThrough(
    values.map((_, i) => i),
    values,
    values.length <= fewEntries
      ? (value, y) => value === y
      : (value, y) => Math.abs(value - y) <= 4e-7 * Math.abs(y),
  );

/**
 * How many thresholds are not above x, which is its code. A threshold is exact
 * where a line begins, and elsewhere off by 3e-5 of the distance to the next.
 *
 * @param limits of formats/encode.ts: ordered integers
 */
export function encodingLines(limits: Int32Array): Line[] | undefined {
  const xs = Float32Array.from(limits, (ordered) =>
    ordered >= 0 ? bitsFloat(ordered) : -bitsFloat(-ordered - 1),
  );
  // Two thresholds at one place, or numbers that a device takes for 0.
  if (xs.some((x, i) => x <= xs[i - 1]!)) return undefined;
  return linesThrough(
    xs,
    xs.map((_, i) => i + 1),
    (value, y) => Math.abs(value - y) <= 3e-5,
  );
}

const pick = (
  scope: Scope,
  x: Tensor,
  lines: readonly Line[],
  part: (line: Line) => number,
): Tensor =>
  lines.reduce(
    (before, line) =>
      scope.where(
        scope.ge(x, scope.float(line.x)),
        scope.float(part(line)),
        before,
      ),
    scope.float(0),
  );

/** Where an entry lies; `index` is float32. */
export function decodeByLines(
  scope: Scope,
  index: Tensor,
  lines: readonly Line[],
): Tensor {
  const of = (part: (line: Line) => number) => pick(scope, index, lines, part);
  const along = scope.sub(
    index,
    of(({ x }) => x),
  );
  return scope.add(
    of(({ y }) => y),
    scope.mul(
      of(({ slope }) => slope),
      along,
    ),
  );
}

/** Codes, uint32. */
export function encodeByLines(
  scope: Scope,
  x: Tensor,
  lines: readonly Line[],
): Tensor {
  const of = (part: (line: Line) => number) => pick(scope, x, lines, part);
  const along = scope.sub(
    x,
    of((line) => line.x),
  );
  const steps = scope.mul(
    of(({ slope }) => slope),
    along,
  );
  // A whole number of steps, and no further than the line goes.
  const code = scope.add(
    of(({ y }) => y),
    scope.floor(
      scope.min(
        steps,
        of(({ y, end }) => end - y),
      ),
    ),
  );
  return scope.cast(scope.cast(code, "int32"), "uint32");
}
