/** A histogram in letters that are eighths of a line high. */
const eighths = " ▁▂▃▄▅▆▇█";

/**
 * Columns of a histogram, the highest `height` lines; a column that has anything
 * shows it. More counts than columns are added up, neighbours to neighbours.
 */
export function histogram(
  counts: readonly number[],
  { width, height }: { readonly width: number; readonly height: number },
): string[] {
  const columns = gather(counts, Math.min(width, counts.length));
  const largest = columns.reduce((a, b) => Math.max(a, b), 0);
  const levels = columns.map((count) =>
    count === 0 ? 0 : Math.max(1, Math.round((count / largest) * 8 * height)),
  );
  return Array.from({ length: height }, (_, line) => {
    const below = 8 * (height - 1 - line);
    return levels
      .map((level) => eighths[Math.min(8, Math.max(0, level - below))])
      .join("")
      .trimEnd();
  });
}

function gather(counts: readonly number[], columns: number): number[] {
  const sums = new Array<number>(columns).fill(0);
  counts.forEach((count, i) => {
    sums[Math.floor((i * columns) / counts.length)]! += count;
  });
  return sums;
}
