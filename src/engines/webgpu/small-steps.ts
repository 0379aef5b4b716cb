/**
 * What follows each pass over the elements, for all tensors together: their
 * results from partial results (combine.ts), then their values that are not
 * per element (evaluate.ts).
 */
import { geometryOf } from "../../formula/small.ts";
import type { StepInput, TensorPlan } from "../engine.ts";
import { alignUp, type Arena } from "./buffers.ts";
import {
  combineCode,
  packSpreads,
  packTasks,
  spreadCode,
  tasksOf,
} from "./combine.ts";
import { evaluateStages, lastLevel, recordFields } from "./evaluate.ts";
import { bindGroupLayout, pipeline, type Pipeline } from "./pipelines.ts";
import { passWorkgroup, type SmallPlaces } from "./small.ts";

export interface SmallTensor {
  readonly index: number;
  /** Of program and formats. */
  readonly key: string;
  readonly plan: TensorPlan;
  readonly places: SmallPlaces;
}

/** One dispatch for all tensors of a kind. */
interface KindStage {
  readonly pipeline: Pipeline;
  /** Workgroups that share a tensor. */
  readonly chunks: number;
}

/** A program's stages by level; the last ones follow the update. */
interface Kind {
  readonly levels: readonly (readonly KindStage[])[];
  readonly fields: readonly string[];
}

interface Dispatch {
  readonly pipeline: Pipeline;
  readonly bindGroup: GPUBindGroup;
  readonly groups: number;
  readonly chunks: number;
}

/** A range of the data buffer, until there is one. */
interface Draft {
  readonly pipeline: Pipeline;
  readonly layout: GPUBindGroupLayout;
  readonly offset: number;
  readonly bytes: number;
  readonly chunk: number;
  readonly groups: number;
  readonly chunks: number;
}

/** Rows or columns from which on several workgroups share a tensor. */
const longFrom = 2048;
const mostChunks = 64;

export class SmallSteps {
  readonly #device: GPUDevice;
  readonly #report: GPUBuffer;
  readonly #arena: Arena;
  readonly #kinds = new Map<string, Kind>();
  readonly #tasks: GPUBindGroupLayout;
  readonly #records: GPUBindGroupLayout;
  readonly #combine: Pipeline;
  readonly #spread: Pipeline;
  #data = new ArrayBuffer(0);
  #used = 0;
  #buffer: GPUBuffer | undefined;
  /** Where each tensor's uniforms are, in bytes. */
  #uniforms: { readonly index: number; readonly at: number }[] = [];
  #before: Dispatch[][] = [];
  #after: Dispatch[] = [];

  constructor(
    device: GPUDevice,
    report: GPUBuffer,
    arena: Arena,
    tensors: readonly SmallTensor[],
    solo: boolean,
  ) {
    this.#device = device;
    this.#report = report;
    this.#arena = arena;
    const entries = ["read-only-storage", "storage", "storage"] as const;
    const layout = (count: number) =>
      bindGroupLayout(
        device,
        entries.slice(0, count).map((type, binding) => ({ binding, type })),
      );
    this.#tasks = layout(2);
    this.#records = layout(3);
    const compiled = (code: string, layout: GPUBindGroupLayout) =>
      pipeline(device, code, layout, "lowbit small");
    this.#combine = compiled(combineCode, this.#tasks);
    this.#spread = compiled(spreadCode, this.#tasks);
    const lengths = new Map<string, number>();
    for (const { key, plan } of tensors) {
      const { matrices, rows, columns } = geometryOf(plan.shape);
      const longest = matrices * Math.max(rows, columns);
      lengths.set(key, Math.max(longest, lengths.get(key) ?? 0));
    }
    const workgroup = passWorkgroup(solo);
    for (const { key, plan } of tensors) {
      if (this.#kinds.has(key)) continue;
      const { program, formats } = plan;
      const longest = lengths.get(key)!;
      const chunks = Math.min(mostChunks, Math.ceil(longest / workgroup));
      const levels = Array.from(
        { length: lastLevel(program, formats) + 1 },
        (_, level) =>
          evaluateStages(
            program,
            formats,
            level,
            workgroup,
            longest >= longFrom,
          ),
      );
      this.#kinds.set(key, {
        levels: levels.map((stages) =>
          stages.map(({ code, spread }) => ({
            pipeline: compiled(code, this.#records),
            chunks: spread ? chunks : 1,
          })),
        ),
        fields: recordFields(program, formats),
      });
    }
  }

  get pipelines(): Pipeline[] {
    const levels = [...this.#kinds.values()].flatMap(({ levels }) => levels);
    return [
      this.#combine,
      this.#spread,
      ...levels.flat().map(({ pipeline }) => pipeline),
    ];
  }

  get bytes(): number {
    return this.#buffer?.size ?? 0;
  }

  /** Makes ready for steps of these tensors. */
  plan(tensors: readonly SmallTensor[]): void {
    this.#used = 0;
    this.#uniforms = [];
    const parts: { at: number; words: Uint32Array }[] = [];
    const reserve = (words: Uint32Array) => {
      const at = this.#used;
      parts.push({ at, words });
      this.#used = alignUp(at + words.byteLength);
      return { offset: at, bytes: words.byteLength };
    };
    const levels = Math.max(
      0,
      ...tensors.map(({ key }) => this.#kinds.get(key)!.levels.length - 1),
    );
    const before: Draft[][] = Array.from({ length: levels }, () => []);
    const after: Draft[] = [];
    const chunks = [...new Set(tensors.map(({ places }) => places.chunk))];
    for (const chunk of chunks) {
      const own = tensors.filter(({ places }) => places.chunk === chunk);
      for (let pass = 0; pass < levels; pass++) {
        const tasks = own.map(({ plan, places }) =>
          tasksOf(plan, places, pass),
        );
        const add = (
          { words, groups }: ReturnType<typeof packTasks>,
          pipeline: Pipeline,
        ) => {
          if (groups > 0)
            before[pass + 1]!.push({
              ...reserve(words),
              pipeline,
              layout: this.#tasks,
              chunk,
              groups,
              chunks: 1,
            });
        };
        add(packTasks(tasks.flatMap(({ first }) => first)), this.#combine);
        add(packTasks(tasks.flatMap(({ leading }) => leading)), this.#combine);
        add(packSpreads(tasks.flatMap(({ spreads }) => spreads)), this.#spread);
      }
      for (const [key, { levels: stages, fields }] of this.#kinds) {
        const kind = own.filter((tensor) => tensor.key === key);
        if (kind.length === 0) continue;
        const words = new Uint32Array(fields.length * kind.length);
        const { offset, bytes } = reserve(words);
        kind.forEach((tensor, i) => {
          const values = recordOf(tensor);
          fields.forEach((field, f) => {
            words[fields.length * i + f] = values.get(field) ?? 0;
          });
          const first = fields.indexOf("u0");
          if (first >= 0)
            this.#uniforms.push({
              index: tensor.index,
              at: offset + 4 * (fields.length * i + first),
            });
        });
        stages.forEach((level, number) => {
          const last = number === stages.length - 1;
          for (const stage of level)
            (last ? after : before[number]!).push({
              ...stage,
              layout: this.#records,
              offset,
              bytes,
              chunk,
              groups: kind.length,
            });
        });
      }
    }
    this.#reserve(this.#used);
    const all = new Uint32Array(this.#data);
    for (const { at, words } of parts) all.set(words, at / 4);
    this.#before = before.map((drafts) =>
      drafts.map((draft) => this.#bind(draft)),
    );
    this.#after = after.map((draft) => this.#bind(draft));
  }

  #reserve(bytes: number): void {
    if (this.#data.byteLength >= bytes) return;
    this.#buffer?.destroy();
    this.#data = new ArrayBuffer(bytes);
    this.#buffer = this.#device.createBuffer({
      label: "lowbit small jobs",
      size: bytes,
      usage: GPUBufferUsage.STORAGE | GPUBufferUsage.COPY_DST,
    });
  }

  #bind(draft: Draft): Dispatch {
    const { pipeline, layout, offset, bytes, chunk, groups, chunks } = draft;
    const resources: GPUBindingResource[] = [
      { buffer: this.#buffer!, offset, size: bytes },
      { buffer: this.#arena.buffer(chunk) },
    ];
    if (layout === this.#records) resources.push({ buffer: this.#report });
    return {
      pipeline,
      groups,
      chunks,
      bindGroup: this.#device.createBindGroup({
        layout,
        entries: resources.map((resource, binding) => ({ binding, resource })),
      }),
    };
  }

  /** What changes from step to step. */
  fill({ tensors }: StepInput): void {
    const floats = new Float32Array(this.#data);
    for (const { index, at } of this.#uniforms)
      floats.set(tensors[index]!.uniforms, at / 4);
    if (this.#used > 0)
      this.#device.queue.writeBuffer(
        this.#buffer!,
        0,
        this.#data,
        0,
        this.#used,
      );
  }

  /** After so many passes over the elements. */
  record(pass: GPUComputePassEncoder, passes: number): void {
    this.#run(pass, this.#before[passes] ?? []);
  }

  /** After the update. */
  finish(pass: GPUComputePassEncoder): void {
    this.#run(pass, this.#after);
  }

  #run(pass: GPUComputePassEncoder, dispatches: readonly Dispatch[]): void {
    const most = this.#device.limits.maxComputeWorkgroupsPerDimension;
    for (const { pipeline, bindGroup, groups, chunks } of dispatches) {
      // More workgroups than fit in a row are those of combine.ts, which has no chunks.
      const rows = Math.max(chunks, Math.ceil(groups / most));
      pass.setPipeline(pipeline.get());
      pass.setBindGroup(0, bindGroup);
      pass.dispatchWorkgroups(
        chunks > 1 ? groups : Math.ceil(groups / rows),
        rows,
      );
    }
  }

  dispose(): void {
    this.#buffer?.destroy();
  }
}

function recordOf({ plan, places }: SmallTensor): Map<string, number> {
  const { matrices, rows, columns } = geometryOf(plan.shape);
  const values = new Map(Object.entries({ matrices, rows, columns }));
  for (const [node, at] of places.nodes) values.set(`n${node}`, at);
  for (const [state, at] of places.states) values.set(`s${state}`, at);
  for (const [state, { scales, toNew, length }] of places.rank1) {
    values.set(`old${state}`, scales);
    values.set(`new${state}`, scales + toNew);
    values.set(`length${state}`, length);
  }
  return values;
}
