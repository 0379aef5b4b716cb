/**
 * What the user gave cannot work: a file that is not there, a width that the
 * heads do not divide. The command line prints its message as one sentence;
 * every other error is a mistake in the program and keeps its stack.
 */
export class InputError extends Error {
  override readonly name = "InputError";
}
