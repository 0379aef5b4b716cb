/** A file that cannot be used: cut off, changed, of another kind, or made to mislead. */
export class FileError extends Error {
  override readonly name = "FileError";
}

/** Runs something that reads a file; its errors then begin with the caller's name. */
export async function owned<T>(
  owner: string,
  work: () => T | Promise<T>,
): Promise<T> {
  try {
    return await work();
  } catch (error) {
    throw ownedError(owner, error);
  }
}

export function ownedError(owner: string, error: unknown): unknown {
  return error instanceof FileError
    ? new FileError(`${owner}: ${error.message}`, { cause: error.cause })
    : error;
}
