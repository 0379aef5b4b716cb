/** Numbers as people read them. */

const grouped = new Intl.NumberFormat("en-US");

/** 834304 -> 834,304 */
export const count = (value: number) => grouped.format(value);

/** Three digits, and more where there are more before the point: 1.33, 133, 1,334. */
export const digits = (value: number) =>
  Math.abs(value) >= 999.5 ? count(Math.round(value)) : value.toPrecision(3);

/** A part from 0 to 1: 0.0314 -> 3.1, 0.997 -> 100. */
export const hundredths = (part: number) =>
  part < 0.0995 ? (100 * part).toPrecision(2) : String(Math.round(100 * part));

/** 1 step, 300 steps */
export const plural = (value: number, noun: string) =>
  `${count(value)} ${noun}${value === 1 ? "" : "s"}`;

/** 6674432 -> 6.67 MB; powers of 1000, as disks and networks count. */
export function bytes(value: number): string {
  const units = ["bytes", "kB", "MB", "GB", "TB"];
  let unit = 0;
  while (value >= 999.5 && unit < units.length - 1) {
    value /= 1000;
    unit++;
  }
  return unit === 0 ? `${value} bytes` : `${digits(value)} ${units[unit]}`;
}

/** Seconds -> 0:07, 12:34, 1:02:03. */
export function duration(seconds: number): string {
  const whole = Math.max(0, Math.round(seconds));
  const [h, m, s] = [whole / 3600, (whole / 60) % 60, whole % 60].map(
    Math.floor,
  ) as [number, number, number];
  const two = (value: number) => String(value).padStart(2, "0");
  return h > 0 ? `${h}:${two(m)}:${two(s)}` : `${m}:${two(s)}`;
}

/** 1834 -> 1.83k, for rates. */
export const rate = (value: number) =>
  value < 999.5 ? value.toFixed(0) : `${digits(value / 1000)}k`;

/** A learning rate without a tail of digits. */
export const short = (value: number) => String(Number(value.toPrecision(3)));

/** A loss to a thousandth of a nat; a difference, `signed`, says which way it goes. */
export function nats(value: number, signed = false): string {
  const text = Math.abs(value).toFixed(3);
  const zero = Number(text) === 0;
  return `${value < 0 && !zero ? "-" : signed && !zero ? "+" : ""}${text}`;
}
