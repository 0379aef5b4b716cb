/**
 * Arrays of jax-js are consumed by what is done with them. A scope turns that
 * round for a computation in which values are used several times: every
 * operation keeps its operands, and all of them are freed at the end.
 */
import type { Jax, Tensor } from "./contract.ts";

type Type = "float32" | "uint32" | "int32";
export type Scope = ReturnType<typeof openScope>;

export function openScope(jax: Pick<Jax, "numpy" | "lax">) {
  const { numpy: np, lax } = jax;
  const made: Tensor[] = [];
  const rows = new Map<string, Tensor>();
  /** Takes an array over. */
  const own = (array: Tensor): Tensor => {
    made.push(array);
    return array;
  };
  const unary = (apply: (a: Tensor) => Tensor) => (a: Tensor) =>
    own(apply(a.ref));
  const binary =
    (apply: (a: Tensor, b: Tensor) => Tensor) => (a: Tensor, b: Tensor) =>
      own(apply(a.ref, b.ref));
  const number = (value: number, dtype: Type) =>
    own(np.array(value, { dtype: np[dtype] }));
  return {
    own,
    float: (value: number) => number(value, "float32"),
    word: (value: number) => number(value >>> 0, "uint32"),
    int: (value: number) => number(value | 0, "int32"),
    add: binary((a, b) => a.add(b)),
    sub: binary((a, b) => a.sub(b)),
    mul: binary((a, b) => a.mul(b)),
    div: binary((a, b) => a.div(b)),
    min: binary((a, b) => np.minimum(a, b)),
    max: binary((a, b) => np.maximum(a, b)),
    pow: binary((a, b) => np.exp(np.log(a).mul(b))),
    neg: unary((a) => a.neg()),
    sqrt: unary((a) => np.sqrt(a)),
    floor: unary((a) => np.floor(a)),
    abs: unary((a) => np.abs(a)),
    exp: unary((a) => np.exp(a)),
    log: unary((a) => np.log(a)),
    reciprocal: unary((a) => np.reciprocal(a)),
    lt: binary((a, b) => np.less(a, b)),
    le: binary((a, b) => np.lessEqual(a, b)),
    gt: binary((a, b) => np.greater(a, b)),
    ge: binary((a, b) => np.greaterEqual(a, b)),
    eq: binary((a, b) => np.equal(a, b)),
    ne: binary((a, b) => np.notEqual(a, b)),
    /** Both conditions. */
    both: binary((a, b) => np.where(a, b, false)),
    where: (condition: Tensor, a: Tensor, b: Tensor) =>
      own(np.where(condition.ref, a.ref, b.ref)),
    and: binary((a, b) => np.bitwiseAnd(a, b)),
    or: binary((a, b) => np.bitwiseOr(a, b)),
    xor: binary((a, b) => np.bitwiseXor(a, b)),
    shiftLeft: binary((a, b) => np.leftShift(a, b)),
    /** Of uint32: zeros come in. */
    shiftRight: binary((a, b) => np.rightShift(a, b)),
    asFloat: unary((a) => lax.bitcastConvertType(a, np.float32)),
    asWord: unary((a) => lax.bitcastConvertType(a, np.uint32)),
    cast: (a: Tensor, dtype: Type) => own(a.ref.astype(np[dtype])),
    take: binary((table, index) => np.take(table, index, 0)),
    reshape: (a: Tensor, shape: readonly number[]) =>
      own(a.ref.reshape([...shape])),
    /** Entries `from` to `to` of the first axis. */
    slice: (a: Tensor, from: number, to: number) =>
      own(a.ref.slice([from, to])),
    /** Zeros after the last axis' end, up to this length. */
    padLast: (a: Tensor, length: number) => {
      const last = a.shape.at(-1)!;
      return last === length
        ? a
        : own(
            np.pad(
              a.ref,
              a.shape.map((_, i): [number, number] => [
                0,
                i === a.shape.length - 1 ? length - last : 0,
              ]),
            ),
          );
    },
    sum: (a: Tensor, axis: number | number[]) =>
      own(np.sum(a.ref, axis, { keepdims: true })),
    largest: (a: Tensor, axis: number | number[], keepdims = true) =>
      own(np.max(a.ref, axis, { keepdims })),
    broadcast: (a: Tensor, shape: readonly number[]) =>
      own(np.broadcastTo(a.ref, [...shape])),
    concatenate: (parts: readonly Tensor[]) =>
      own(np.concatenate(parts.map((part) => part.ref))),
    array: (
      values: Float32Array | Int32Array | Uint32Array,
      shape: readonly number[] = [values.length],
    ) =>
      own(np.array(values as Float32Array<ArrayBuffer>, { shape: [...shape] })),
    /** A row [1, n] that may be asked for often: kernels have room for few arrays. */
    row: (values: readonly number[]): Tensor => {
      const key = values.join();
      let row = rows.get(key);
      if (!row) {
        const words = Uint32Array.from(values);
        row = own(np.array(words, { shape: [1, words.length] }));
        rows.set(key, row);
      }
      return row;
    },
    range: (length: number) =>
      own(np.arange(0, length, 1, { dtype: np.uint32 })),
    /** Frees everything but these, which are the caller's from now on. */
    close(results: readonly Tensor[]): void {
      for (const result of results) void result.ref;
      for (const array of made) array.dispose();
    },
  };
}
