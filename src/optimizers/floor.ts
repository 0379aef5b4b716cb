/**
 * What stands beside the root of a second moment in a divisor, sqrt(v) / c2 +
 * eps, in the unit of sqrt(v): what rounding the preconditioner must know.
 */
export const correctedFloor = ({
  eps = 0,
  c2 = 1,
}: Readonly<Record<string, number>>): number => eps * c2;
