// TensorFlow.js of a script tag as the module @tensorflow/tfjs-core.
const { tf } = /** @type {any} */ (globalThis);
export const { Optimizer, serialization, engine, util } = tf;
export const { backend_util, tensor, scalar, tidy, keep } = tf;
export const { dispose, add, mul, div, sum, sqrt, square } = tf;
export const { minimum, where, zerosLike, all, logicalAnd } = tf;
export const { isFinite } = tf;
