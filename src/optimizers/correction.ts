/**
 * Adam's bias correction (arXiv 1412.6980, algorithm 1), as step scalars: m is
 * divided by c1, and sqrt(v) by c2.
 *
 * @param t the step, from 1.
 */
export const biasCorrection = (
  { beta1, beta2 }: { readonly beta1: number; readonly beta2: number },
  t: number,
) => ({ c1: 1 - beta1 ** t, c2: Math.sqrt(1 - beta2 ** t) });

/**
 * What stands beside the root of a second moment in a divisor, sqrt(v) / c2 +
 * eps, in the unit of sqrt(v): what rounding the preconditioner must know.
 */
export const correctedFloor = ({
  eps = 0,
  c2 = 1,
}: Readonly<Record<string, number>>): number => eps * c2;
