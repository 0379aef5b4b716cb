/** Ends a run on request: politely at first, at once when asked again. */
export interface Interrupt {
  readonly signal: AbortSignal;
  /** Exit code for the signal that came, as shells count; 0 for none. */
  code(): number;
  /** Gives the signals back to Node. */
  release(): void;
}

const codes = { SIGINT: 130, SIGTERM: 143 } as const;

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
  for (const name of Object.keys(codes)) process.on(name, receive);
  return {
    signal: controller.signal,
    code: () => code,
    release: () => {
      for (const name of Object.keys(codes)) process.off(name, receive);
    },
  };
}
