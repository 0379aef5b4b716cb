/**
 * What the user gave cannot work: a file that is not there, a width that the
 * heads do not divide. The command line prints its message as one sentence;
 * every other error is a mistake in the program and keeps its stack.
 */
export class InputError extends Error {
  override readonly name = "InputError";
}

/**
 * What lowbit throws for options and sizes that a user chose: TypeError and
 * RangeError. Anything else comes back as it is.
 */
export function asInputError(error: unknown): unknown {
  if (!(error instanceof TypeError || error instanceof RangeError))
    return error;
  const message = error.message.replace(
    /^(optimizerByName|createOptimizer): /,
    "",
  );
  return new InputError(message, { cause: error });
}
