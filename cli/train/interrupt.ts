/** Ends a run on request: politely at first, at once when asked again. */
export interface Interrupt {
  readonly signal: AbortSignal;
  /** Exit code for what came, as shells count; 0 for nothing. */
  code(): number;
  /** Gives the signals back to Node. */
  release(): void;
}

/** Ctrl-C, a closed terminal, `kill`. */
const codes = { SIGINT: 130, SIGHUP: 129, SIGTERM: 143 } as const;

/** Whoever read our output has gone, as `head` in `lowbit train | head`. */
const READER_GONE = 141;

/** @param notice called at the first signal */
export function catchInterrupts(notice: () => void): Interrupt {
  const controller = new AbortController();
  let code = 0;
  const receive = (name: NodeJS.Signals) => {
    const wanted = codes[name as keyof typeof codes];
    if (code !== 0) process.exit(wanted);
    code = wanted;
    notice();
    controller.abort();
  };
  const readerGone = () => {
    code ||= READER_GONE;
    controller.abort();
  };
  for (const name of Object.keys(codes)) process.on(name, receive);
  process.stdout.on("error", readerGone);
  return {
    signal: controller.signal,
    code: () => code,
    release: () => {
      for (const name of Object.keys(codes)) process.off(name, receive);
      process.stdout.off("error", readerGone);
    },
  };
}
