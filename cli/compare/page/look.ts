/** How all charts look. */

/** The colour of an optimizer. */
export type Colors = (optimizer: string) => string;

/** Eight colours that the style sheet sets for light and dark; more repeat. */
export const colorsOf = (optimizers: readonly string[]): Colors => {
  const places = new Map(optimizers.map((name, i) => [name, i % 8]));
  return (name) => `var(--s${places.get(name) ?? 0})`;
};

/** Options of a plot that fills its place. */
export const look = (width: number, height: number) => ({
  width,
  height,
  marginLeft: 52,
  marginRight: 16,
  marginBottom: 42,
  style: {
    background: "transparent",
    color: "var(--ink)",
    fontSize: width < 480 ? "11px" : "12px",
  },
});
