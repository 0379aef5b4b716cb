/**
 * What the user gave cannot work: a file that is not there, a width that the
 * heads do not divide. The command line prints its message as one sentence;
 * every other error is a mistake in the program and keeps its stack.
 */
export class InputError extends Error {
  override readonly name = "InputError";
}

/**
 * What lowbit throws for options and sizes that a user chose: a TypeError or
 * RangeError that begins with its owner, as in `adamw8bit: ...`. Anything else,
 * such as the engine's own "x is not a function", comes back as it is.
 */
export function asInputError(error: unknown): unknown {
  const thrown = error instanceof TypeError || error instanceof RangeError;
  if (!thrown || !/^\w+: /.test(error.message)) return error;
  const message = error.message.replace(
    /^(optimizerByName|createOptimizer|planMemory|modelFrom\w+): /,
    "",
  );
  return new InputError(message, { cause: error });
}
