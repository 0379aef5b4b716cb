/**
 * The report buffer: what a step counts and decides, and behind it the scales
 * of whole tensors.
 */
import type { StepReport } from "../engine.ts";

/** The words of the report buffer; the tensors' scales follow. */
export const reportWords = { nonFinite: 0, skip: 1, factor: 2, norm: 3 };
export const reportHeader = 4;

/** Reads the report of the last step, one reading after the other. */
export class ReportReader {
  readonly #device: GPUDevice;
  readonly #report: GPUBuffer;
  readonly #staging: GPUBuffer;
  #reading: Promise<unknown> = Promise.resolve();

  constructor(device: GPUDevice, report: GPUBuffer) {
    this.#device = device;
    this.#report = report;
    this.#staging = device.createBuffer({
      label: "lowbit report, read",
      size: 4 * reportHeader,
      usage: GPUBufferUsage.COPY_DST | GPUBufferUsage.MAP_READ,
    });
  }

  get bytes(): number {
    return this.#staging.size;
  }

  /** @param map resolves when a buffer is mapped for reading. */
  read(
    clip: boolean,
    map: (buffer: GPUBuffer) => Promise<void>,
  ): Promise<StepReport> {
    const encoder = this.#device.createCommandEncoder();
    const read = this.#reading.then(async () => {
      encoder.copyBufferToBuffer(
        this.#report,
        0,
        this.#staging,
        0,
        4 * reportHeader,
      );
      this.#device.queue.submit([encoder.finish()]);
      await map(this.#staging);
      const words = new Uint32Array(this.#staging.getMappedRange().slice(0));
      this.#staging.unmap();
      return {
        nonFinite: words[reportWords.nonFinite]!,
        gradNorm: clip
          ? new Float32Array(words.buffer)[reportWords.norm]!
          : undefined,
        skipped: words[reportWords.skip] !== 0,
      };
    });
    this.#reading = read.catch(() => undefined);
    return read;
  }

  dispose(): void {
    this.#staging.destroy();
  }
}
