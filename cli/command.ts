/** A subcommand: `lowbit <name> ...`. */
export interface Command {
  /** Text of `lowbit <name> --help`. */
  help(): string;
  /**
   * @param args what follows the name
   * @returns the exit code
   * @throws InputError for what the user got wrong
   */
  run(args: readonly string[]): Promise<number>;
}

/** What the list of commands knows without loading them. */
export interface CommandEntry {
  readonly summary: string;
  load(): Promise<Command>;
}
