/** Small helpers to make elements. Text goes in as text, never as HTML. */

type Child = Node | string;

/** An element with a class and children: `element("p", "soft", "text")`. */
export function element<Tag extends keyof HTMLElementTagNameMap>(
  tag: Tag,
  className: string,
  ...children: readonly Child[]
): HTMLElementTagNameMap[Tag] {
  const made = document.createElement(tag);
  if (className) made.className = className;
  made.append(...children);
  return made;
}

export const heading = (level: 1 | 2 | 3, text: string) =>
  element(`h${level}`, "", text);

export const note = (text: string) => element("p", "soft", text);

/**
 * A table; cells may be elements.
 *
 * @param words columns from the left that hold words; the others hold numbers
 */
export function table(
  head: readonly string[],
  rows: readonly (readonly Child[])[],
  words = 1,
): HTMLElement {
  const side = (column: number) => (column < words ? "words" : "");
  const titles = head.map((text, i) => element("th", side(i), text));
  const lines = rows.map((cells) =>
    element("tr", "", ...cells.map((cell, i) => element("td", side(i), cell))),
  );
  return element(
    "div",
    "scroll",
    element(
      "table",
      "",
      element("thead", "", element("tr", "", ...titles)),
      element("tbody", "", ...lines),
    ),
  );
}

/** Names with the colour of each. */
export function legend(
  names: readonly string[],
  color: (name: string) => string,
): HTMLElement {
  return element(
    "div",
    "legend",
    ...names.map((name) => {
      const swatch = element("span", "swatch");
      swatch.style.background = color(name);
      return element("span", "key", swatch, name);
    }),
  );
}

/**
 * A chart that is drawn again when its place changes width.
 *
 * @param name what tests and styles know it by
 * @param draw makes an SVG of that width
 */
export function chart(
  name: string,
  label: string,
  draw: (width: number) => Element,
): HTMLElement {
  const figure = element("figure", "");
  figure.dataset.chart = name;
  figure.setAttribute("aria-label", label);
  let drawn = 0;
  new ResizeObserver(([entry]) => {
    const width = Math.floor(entry!.contentRect.width);
    if (width === drawn || width === 0) return;
    drawn = width;
    figure.replaceChildren(draw(width));
  }).observe(figure);
  return figure;
}
