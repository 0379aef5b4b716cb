import { openTerminal } from "./terminal.ts";

/** What is told of progress: the part that is done, from 0 to 1. */
export type Progress = (part: number) => void;

/**
 * A percentage on stderr, written over, when work takes longer than a second and
 * somebody can see it.
 */
export function percentage(quiet: boolean): Progress {
  if (quiet || !openTerminal(process.stderr).live) return () => {};
  const begun = Date.now();
  let shown = "";
  return (part) => {
    const text = `${Math.floor(100 * part)} %`;
    if (part >= 1 && shown) process.stderr.write("\r\x1b[K");
    else if (text !== shown && Date.now() - begun > 1000)
      process.stderr.write(`\r${(shown = text)}`);
  };
}
