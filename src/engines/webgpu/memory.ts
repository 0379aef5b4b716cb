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
import { fillCodes, type FillRegion } from "./fill.ts";
import { placeTensor, type PlacedPiece } from "./layout.ts";
import { reportHeader } from "./report.ts";
import { lowestBits, placeSmall, type SmallPlaces } from "./small.ts";
import type { ResolvedTuning } from "./tuning.ts";

export interface Tensor {
  readonly plan: TensorPlan;
  /** Of program and formats: tensors with the same key run the same kernels. */
  readonly key: string;
  readonly pieces: readonly PlacedPiece[];
  /** Where the parameter is read and written; undefined when each step says so. */
  readonly parameter: Required<BufferView> | undefined;
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

/** The arenas of what a host may keep, in the order of its regions. */
export const stateArenas = ({ codes, floats, smalls }: Arenas): Arena[] => [
  codes,
  floats,
  smalls,
];

/** Memory in use, of which the device may still say that there is not enough. */
export interface Allocation {
  readonly memory: Memory;
  /** What was wrong, once the device has said so. */
  readonly fault: Promise<Error | undefined>;
}

/**
 * Creates the buffers of a session, filled as before the first step.
 *
 * @throws RangeError when the device says at once that memory is short; nothing
 * stays allocated.
 */
export function allocate(
  device: GPUDevice,
  plans: readonly TensorPlan[],
  options: EngineOptions,
  tuning: ResolvedTuning,
): Allocation {
  const { resident, hostStates = false } = options;
  const places = makeArenas(device, tuning);
  const { drafts, reportWords } = placeAll(plans, options, tuning, places);
  const kept: readonly Arena[] = hostStates ? stateArenas(places) : [];
  const own = arenas.filter((name) => !kept.includes(places[name]));
  const bytes = own.reduce((sum, name) => sum + places[name].bytes, 0);
  let buffers: Buffers | undefined;
  try {
    const fault = scoped(device, bytes, () => {
      for (const name of own)
        places[name].create(device, `lowbit ${labels[name]}`);
      buffers = makeBuffers(device, drafts, reportWords, resident);
    });
    const memory = {
      ...places,
      ...buffers!,
      tensors: drafts.map((draft) => located(draft, places)),
    };
    initialize(device, memory, options);
    return { memory, fault };
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
  { resident, hostStates = false, hostParameters = false }: EngineOptions,
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
    const ours = resident || Boolean(array) || (!given && !hostParameters);
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
        if (hostStates)
          throw new TypeError(
            `webgpu: '${plan.name}' has a state with one scale a tensor, which a host cannot keep; give it a block size`,
          );
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
    parameter: own ? view(parameters, own) : given,
    gradient: ownGradient ? view(gradients, ownGradient) : undefined,
  };
}

/** Parameters given, and states of zero. */
function initialize(
  device: GPUDevice,
  memory: Memory,
  { resident, hostStates }: EngineOptions,
): void {
  for (const { array, parameter, plan } of memory.tensors)
    if (array)
      device.queue.writeBuffer(
        parameter!.buffer,
        parameter!.offset,
        array as Float32Array<ArrayBuffer>,
      );
    else if (resident && plan.parameter !== undefined)
      copyIn(device, parameter!, plan);
  if (hostStates) return;
  fillCodes(
    device,
    initialWords(memory).map(({ arena, chunk, ...region }) => ({
      ...region,
      buffer: arena.buffer(chunk),
    })),
  );
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

/** Runs allocations. @returns what the device finds wrong with them, which it says later. */
function scoped(
  device: GPUDevice,
  bytes: number,
  create: () => void,
): Promise<Error | undefined> {
  const short = (cause: unknown) =>
    new RangeError(
      `webgpu: no memory for the states: ${bytes} bytes were asked for; free other buffers, or store states in fewer bits`,
      { cause },
    );
  device.pushErrorScope("validation");
  device.pushErrorScope("out-of-memory");
  let thrown: unknown;
  try {
    create();
  } catch (error) {
    thrown = error;
  }
  // The device may be lost meanwhile, which every use will say.
  const memory = device.popErrorScope().catch(() => null);
  const validation = device.popErrorScope().catch(() => null);
  if (thrown !== undefined) throw short(thrown);
  return Promise.all([memory, validation]).then(([memory, validation]) => {
    if (memory) return short(memory);
    return validation
      ? new Error(`webgpu: the states: ${validation.message}`)
      : undefined;
  });
}

/** A range of an arena's chunk, and the word that fills it before the first step. */
export interface InitialWords extends Omit<FillRegion, "buffer"> {
  readonly arena: Arena;
  readonly chunk: number;
}

/**
 * Codes of 0, so that states read before the first step are the reference's,
 * and least numbers; the rest of a new buffer is 0.
 */
export function initialWords({
  tensors,
  codes,
  smalls,
}: Memory): InitialWords[] {
  const zeros = tensors.flatMap(({ plan, pieces }) =>
    pieces.flatMap(({ states, length }) =>
      states.flatMap((place, s): InitialWords[] => {
        const format = plan.formats[s]!;
        if (place.kind !== "quantized" || format.kind === "float") return [];
        const zero = zeroCode(format);
        if (zero === 0) return [];
        const width = storedBits(format.bits);
        let word = 0;
        for (let i = 0; i < 32; i += width) word |= zero << i;
        const { chunk, offset } = place.codes;
        const words = Math.ceil(codeBytes(format.bits, length) / 4);
        return [{ arena: codes, chunk, offset, words, value: word >>> 0 }];
      }),
    ),
  );
  const maxima = tensors.flatMap(({ small }) =>
    (small?.lowest ?? []).map(({ at, words }) => ({
      arena: smalls,
      chunk: small!.chunk,
      offset: 4 * at,
      words,
      value: lowestBits,
    })),
  );
  return [...zeros, ...maxima];
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

/** Destroys what is ours: a host's buffers stay. */
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
