/** What a session holds on its device: tensors, where each of them lies, and the buffers. */
import { stateBytes, zeroCode } from "../../formats/format.ts";
import { codeBytes, storedBits } from "../../formats/pack.ts";
import type { Program } from "../../formula/program.ts";
import type { EngineOptions, TensorPlan } from "../engine.ts";
import { stateLength } from "../engine.ts";
import {
  alignUp,
  Arena,
  resolveView,
  type BufferView,
  type Place,
} from "./buffers.ts";
import { fillCodes } from "./fill.ts";
import { placeTensor, type PlacedPiece } from "./layout.ts";
import { reportHeader } from "./report.ts";
import { lowestBits, placeSmall, type SmallPlaces } from "./small.ts";
import type { ResolvedTuning } from "./tuning.ts";

export interface Tensor {
  readonly plan: TensorPlan;
  /** Of program and formats: tensors with the same key run the same kernels. */
  readonly key: string;
  readonly pieces: readonly PlacedPiece[];
  /** Where the parameter is read and written. */
  readonly parameter: Required<BufferView>;
  /** The caller's own array: uploaded before a step and written back after. */
  readonly array: Float32Array | undefined;
  /** Memory of ours for the gradient. */
  readonly gradient: Required<BufferView> | undefined;
  /** First word of each state's scales in the report buffer, with one scale a tensor. */
  readonly peaks: readonly (number | undefined)[];
  /** Where lies what is not per element. */
  readonly small: SmallPlaces | undefined;
}

const arenas = [
  "codes",
  "floats",
  "smalls",
  "parameters",
  "gradients",
] as const;

type Arenas = Readonly<Record<(typeof arenas)[number], Arena>>;

interface Buffers {
  readonly report: GPUBuffer;
  /** Where callers' arrays are read back to, when there are any. */
  readonly staging: GPUBuffer | undefined;
}

/** Buffers of a session, and the tensors in them. */
export interface Memory extends Arenas, Buffers {
  readonly tensors: readonly Tensor[];
}

/** Tensors with places, before there are buffers. */
interface Draft extends Omit<Tensor, "parameter" | "gradient"> {
  readonly given: Required<BufferView> | undefined;
  readonly own: Place | undefined;
  readonly ownGradient: Place | undefined;
}

/**
 * Creates the buffers of a session, filled as before the first step.
 *
 * @param lost throws when the device is gone.
 * @throws RangeError when memory is short; nothing stays allocated.
 */
export async function allocate(
  device: GPUDevice,
  plans: readonly TensorPlan[],
  { resident }: EngineOptions,
  tuning: ResolvedTuning,
  lost: () => void,
): Promise<Memory> {
  const places = makeArenas(device, tuning);
  const { drafts, reportWords } = placeAll(plans, resident, tuning, places);
  const bytes = arenas.reduce((sum, name) => sum + places[name].bytes, 0);
  let buffers: Buffers | undefined;
  try {
    await scoped(device, bytes, lost, () => {
      for (const name of arenas)
        places[name].create(device, `lowbit ${labels[name]}`);
      buffers = makeBuffers(device, drafts, reportWords, resident);
    });
    const memory = {
      ...places,
      ...buffers!,
      tensors: drafts.map((draft) => located(draft, places)),
    };
    initialize(device, memory, resident);
    return memory;
  } catch (error) {
    release({ ...places, ...buffers });
    throw error;
  }
}

const labels: Readonly<Record<(typeof arenas)[number], string>> = {
  codes: "codes",
  floats: "float32 states",
  smalls: "rows and columns",
  parameters: "parameters",
  gradients: "gradients",
};

function makeArenas(device: GPUDevice, { binding }: ResolvedTuning): Arenas {
  const { maxBufferSize } = device.limits;
  const limit = Math.min(maxBufferSize, binding);
  return {
    codes: new Arena(limit),
    floats: new Arena(limit),
    smalls: new Arena(limit),
    parameters: new Arena(maxBufferSize),
    gradients: new Arena(maxBufferSize),
  };
}

function placeAll(
  plans: readonly TensorPlan[],
  resident: boolean,
  { binding, solo }: ResolvedTuning,
  { codes, floats, smalls, parameters, gradients }: Arenas,
): { drafts: Draft[]; reportWords: number } {
  let reportWords = reportHeader;
  const drafts = plans.map((plan, index): Draft => {
    const { size, parameter, program, formats } = plan;
    const array = parameter instanceof Float32Array ? parameter : undefined;
    const given =
      parameter === undefined || array
        ? undefined
        : resolveView(parameter, size, `parameter '${plan.name}'`);
    const pieces = placeTensor(plan, index, codes, floats, binding);
    const small = placeSmall(plan, solo, pieces.length, smalls);
    const ours = resident || !given;
    const bytes = Math.max(4, 4 * size);
    return {
      plan,
      key: `${programId(program)} ${formats.map(formatKey).join(" ")}`,
      pieces: pieces.map((piece) => ({ ...piece, smallChunk: small?.chunk })),
      small,
      given,
      own: ours ? parameters.place(bytes) : undefined,
      ownGradient: ours ? gradients.place(bytes) : undefined,
      array,
      peaks: formats.map((format) => {
        if (format.kind === "float" || format.scale !== "tensor")
          return undefined;
        return (reportWords += 3) - 3;
      }),
    };
  });
  return { drafts, reportWords };
}

function makeBuffers(
  device: GPUDevice,
  drafts: readonly Draft[],
  reportWords: number,
  resident: boolean,
): Buffers {
  const { STORAGE, COPY_SRC, COPY_DST, MAP_READ } = GPUBufferUsage;
  const report = device.createBuffer({
    label: "lowbit report",
    size: alignUp(4 * reportWords),
    usage: STORAGE | COPY_SRC | COPY_DST,
  });
  const written = resident
    ? 0
    : drafts.reduce(
        (sum, { array, plan }) => sum + (array ? 4 * plan.size : 0),
        0,
      );
  const staging =
    written > 0
      ? device.createBuffer({
          label: "lowbit parameters, read",
          size: written,
          usage: COPY_DST | MAP_READ,
        })
      : undefined;
  return { report, staging };
}

function located(
  { given, own, ownGradient, ...rest }: Draft,
  { parameters, gradients }: Arenas,
): Tensor {
  const view = (arena: Arena, place: Place): Required<BufferView> => ({
    buffer: arena.buffer(place.chunk),
    offset: place.offset,
    type: "float32",
    rounding: "nearest",
  });
  return {
    ...rest,
    parameter: own ? view(parameters, own) : given!,
    gradient: ownGradient ? view(gradients, ownGradient) : undefined,
  };
}

/** Parameters given, and states of zero. */
function initialize(device: GPUDevice, memory: Memory, resident: boolean) {
  for (const { array, parameter, plan } of memory.tensors)
    if (array)
      device.queue.writeBuffer(
        parameter.buffer,
        parameter.offset,
        array as Float32Array<ArrayBuffer>,
      );
    else if (resident && plan.parameter !== undefined)
      copyIn(device, parameter, plan);
  fillZeroCodes(device, memory);
}

function copyIn(
  device: GPUDevice,
  to: Required<BufferView>,
  plan: TensorPlan,
): void {
  const { name, size } = plan;
  const from = resolveView(plan.parameter, size, `parameter '${name}'`);
  if (from.type !== "float32")
    throw new TypeError(
      `webgpu: a resident parameter is float32, '${name}' was given as ${from.type}; leave \`resident\` out to keep it where it is`,
    );
  const encoder = device.createCommandEncoder();
  encoder.copyBufferToBuffer(
    from.buffer,
    from.offset,
    to.buffer,
    to.offset,
    4 * size,
  );
  device.queue.submit([encoder.finish()]);
}

/** Runs allocations. @throws RangeError when memory is short. */
async function scoped(
  device: GPUDevice,
  bytes: number,
  lost: () => void,
  create: () => void,
): Promise<void> {
  device.pushErrorScope("validation");
  device.pushErrorScope("out-of-memory");
  let thrown: unknown;
  try {
    create();
  } catch (error) {
    thrown = error;
  }
  const memory = await device.popErrorScope();
  const validation = await device.popErrorScope();
  lost();
  if (memory ?? thrown)
    throw new RangeError(
      `webgpu: no memory for the states: ${bytes} bytes were asked for; free other buffers, or store states in fewer bits`,
      { cause: thrown ?? memory },
    );
  if (validation) throw new Error(`webgpu: the states: ${validation.message}`);
}

/** Codes of 0, so that states read before the first step are the reference's. */
function fillZeroCodes(
  device: GPUDevice,
  { tensors, codes, smalls }: Memory,
): void {
  const regions = tensors.flatMap(({ plan, pieces }) =>
    pieces.flatMap(({ states, length }) =>
      states.flatMap((place, s) => {
        const format = plan.formats[s]!;
        if (place.kind !== "quantized" || format.kind === "float") return [];
        const zero = zeroCode(format);
        if (zero === 0) return [];
        const width = storedBits(format.bits);
        let word = 0;
        for (let i = 0; i < 32; i += width) word |= zero << i;
        return {
          buffer: codes.buffer(place.codes.chunk),
          offset: place.codes.offset,
          words: Math.ceil(codeBytes(format.bits, length) / 4),
          value: word >>> 0,
        };
      }),
    ),
  );
  const maxima = tensors.flatMap(({ small }) =>
    (small?.lowest ?? []).map(({ at, words }) => ({
      buffer: smalls.buffer(small!.chunk),
      offset: 4 * at,
      words,
      value: lowestBits,
    })),
  );
  fillCodes(device, [...regions, ...maxima]);
}

/** Bytes of codes and scales, or of values. */
export const bytesOfState = (plan: TensorPlan, state: number): number =>
  stateBytes(plan.formats[state]!, stateLength(plan, state), plan.shape);

/** Bytes beside states, and beside resident tensors. */
export function spareBytes(memory: Memory, resident: boolean): number {
  const { codes, floats, smalls, parameters, gradients } = memory;
  const states = memory.tensors.reduce(
    (sum, { plan }) =>
      sum +
      plan.formats.reduce((bytes, _, s) => bytes + bytesOfState(plan, s), 0),
    0,
  );
  return (
    codes.bytes +
    floats.bytes +
    smalls.bytes -
    states +
    (resident ? 0 : gradients.bytes + parameters.bytes) +
    memory.report.size +
    (memory.staging?.size ?? 0)
  );
}

export function release(memory: Arenas & Partial<Buffers>): void {
  for (const name of arenas) memory[name].destroy();
  memory.report?.destroy();
  memory.staging?.destroy();
}

const programIds = new WeakMap<Program, number>();
let lastProgram = 0;

function programId(program: Program): number {
  let id = programIds.get(program);
  if (id === undefined) programIds.set(program, (id = ++lastProgram));
  return id;
}

const formatKey = (format: TensorPlan["formats"][number]): string =>
  format.kind === "float"
    ? `${format.bits} ${format.rounding}`
    : JSON.stringify({ ...format, values: [...format.values] });
