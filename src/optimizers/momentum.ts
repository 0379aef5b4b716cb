/** What optimizers with PyTorch's momentum share; not an optimizer. */

interface Momentum {
  readonly momentum: number;
  readonly dampening: number;
  readonly nesterov: number;
}

/** The first step takes the gradient whole; the step is along ahead * d + along * m. */
export const momentumScalars = (
  { momentum, dampening, nesterov }: Momentum,
  t: number,
) => ({
  gain: t === 1 ? 1 : 1 - dampening,
  ahead: nesterov ? 1 : 0,
  along: nesterov ? momentum : 1,
});

/** @throws RangeError as PyTorch does, for a Nesterov step that has no meaning. */
export const checkMomentum =
  (name: string) =>
  ({ momentum, dampening, nesterov }: Momentum): void => {
    if (nesterov && (momentum === 0 || dampening !== 0))
      throw new RangeError(
        `${name}: nesterov needs a momentum above 0 and no dampening, given momentum ${momentum}, dampening ${dampening}`,
      );
  };
