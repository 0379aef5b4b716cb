import {
  defineOptimizer,
  type OptimizerFactory,
  type RecipeOptions,
} from "./define.ts";
import { updateText } from "./compile.ts";
import type { Form, Hyper } from "./definition.ts";

/**
 * Any optimizer or recipe, with an exponential moving average of the parameters beside
 * them: the state `average`, float32 unless its format says otherwise, read with
 * `optimizer.state(name)`. It begins with the parameters after the first step.
 *
 * @param options.averageDecay how much of the average stays at a step. Default 0.999.
 */
export function withAverage<H extends Hyper>(
  factory: OptimizerFactory<H>,
): OptimizerFactory<H & { averageDecay: number }> {
  const { definition } = factory;
  const averaged = defineOptimizer({
    ...(definition as object as OptimizerFactory["definition"]),
    name: `${definition.name}Average`,
    hyper: { ...definition.hyper, averageDecay: 0.999 } as Hyper,
    scalars: (hyper, t) => ({
      ...definition.scalars?.(hyper as never, t),
      blend: t === 1 ? 1 : 1 - hyper.averageDecay!,
    }),
    check(hyper) {
      definition.check?.(hyper as never);
      const { averageDecay } = hyper;
      if (averageDecay! >= 1)
        throw new RangeError(
          `${definition.name}Average: averageDecay must be in [0, 1), given ${averageDecay}`,
        );
    },
    ...averagedForm(definition),
    ...(definition.variants && {
      variants: definition.variants.map(({ when, ...form }) => ({
        when: when as () => boolean,
        ...averagedForm(form),
      })),
    }),
  });
  const withFormat = (options: RecipeOptions = {}) => {
    const {
      averageDecay: _,
      state = {},
      ...rest
    } = options as RecipeOptions & {
      averageDecay?: number;
    };
    const { average = { bits: 32 }, ...others } = state;
    // A recipe has storage of its own, and says what cannot be.
    const { storage } = factory({
      ...rest,
      state: others,
    } as object as RecipeOptions<H>);
    return averaged({
      ...options,
      ...storage,
      state: { ...storage.state, average },
    } as object as RecipeOptions);
  };
  return Object.assign(withFormat, {
    optimizerName: averaged.optimizerName,
    definition: averaged.definition,
  }) as object as OptimizerFactory<H & { averageDecay: number }>;
}

function averagedForm({ state, update, vector }: Form): Form {
  const add = (form: Pick<Form, "state" | "update">) => ({
    state: { ...form.state, average: "signed" as const },
    update: `${updateText(form.update)}\n    average = average + blend * (p - average)\n`,
  });
  return {
    ...add({ state, update }),
    ...(vector && { vector: add(vector) }),
  };
}
