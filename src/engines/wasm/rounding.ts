/** Stochastic rounding, see formats/random.ts and formats/quantize.ts. */
import { indexMultiplier } from "../../formats/random.ts";
import type { FunctionBuilder, Local } from "../../formula/assembler.ts";
import { f32x4, i32x4, v128, type Code } from "../../formula/instructions.ts";
import { gather, laneOffsets } from "./lanes.ts";
import type { Tables } from "./tables.ts";

/** What stochastic rounding draws from: the key and the index of each lane, splat. */
export interface Randomness {
  readonly key: Local;
  /** Index of the element in lane 0..3 of the first of the four vectors. */
  readonly index: Local;
  /** For rounding the preconditioner: its floor over the root of each vector's scale. */
  readonly floors?: readonly Local[];
}

/** 32 random bits for each lane of one of four vectors, see formats/random.ts. */
export function drawBits(
  fn: FunctionBuilder,
  { key, index }: Randomness,
  vector: number,
): Local {
  const hash = fn.let(
    "v128",
    v128.xor(
      i32x4.mul(
        i32x4.add(index.get, i32x4.const(4 * vector)),
        i32x4.const(indexMultiplier),
      ),
      key.get,
    ),
  );
  const mixed = (by: number, factor: number) =>
    fn.emit(
      hash.set(
        i32x4.mul(
          v128.xor(hash.get, i32x4.shr_u(hash.get, by)),
          i32x4.const(factor),
        ),
      ),
    );
  mixed(16, 0x85ebca6b);
  mixed(13, 0xc2b2ae35);
  fn.emit(hash.set(v128.xor(hash.get, i32x4.shr_u(hash.get, 16))));
  return hash;
}

/** Adds 1 to a code with the probability that its value's place in the gap says. */
export function roundUp(
  fn: FunctionBuilder,
  tables: Tables,
  code: Local,
  x: Local,
  random: Randomness,
  vector: number,
): Local {
  const lanes = laneOffsets(fn, i32x4.shl(code.get, 2));
  const plain = (place: Code) =>
    f32x4.mul(
      f32x4.sub(place, gather(tables.marks, lanes)),
      gather(tables.inverseGaps, lanes),
    );
  const floor = random.floors?.[vector];
  let chance: Local;
  if (floor) {
    const root = fn.let("v128", f32x4.sqrt(f32x4.pmax(f32x4.const(0), x.get)));
    const least = f32x4.const(2 ** -126);
    const below = f32x4.pmax(least, f32x4.add(root.get, floor.get));
    const above = f32x4.add(gather(tables.nextMarks, lanes), floor.get);
    chance = fn.let(
      "v128",
      f32x4.mul(plain(root.get), f32x4.div(above, below)),
    );
  } else chance = fn.let("v128", plain(x.get));
  const hash = drawBits(fn, random, vector);
  const drawn = f32x4.mul(
    f32x4.convert_i32x4_u(i32x4.shr_u(hash.get, 8)),
    f32x4.const(2 ** -24),
  );
  // A true comparison is -1.
  return fn.let("v128", i32x4.sub(code.get, f32x4.lt(drawn, chance.get)));
}
