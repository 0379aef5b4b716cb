/** Fills ranges of buffers with a word, once, when states are created. */
import { bindGroupLayout } from "./pipelines.ts";

export interface FillRegion {
  readonly buffer: GPUBuffer;
  /** In bytes, a multiple of 4. */
  readonly offset: number;
  readonly words: number;
  readonly value: number;
}

/** Below this many words an upload costs less than compiling a kernel. */
const fewWords = 2 ** 20;

const code = `
struct Region { at: u32, words: u32, value: u32, stride: u32 }
@group(0) @binding(0) var<uniform> region: Region;
@group(0) @binding(1) var<storage, read_write> target_words: array<u32>;
@compute @workgroup_size(256)
fn main(@builtin(global_invocation_id) id: vec3u) {
  for (var i = id.x; i < region.words; i += region.stride) {
    target_words[region.at + i] = region.value;
  }
}`;

export function fillCodes(
  device: GPUDevice,
  regions: readonly FillRegion[],
): void {
  const total = regions.reduce((sum, { words }) => sum + words, 0);
  if (total <= fewWords) {
    for (const { buffer, offset, words, value } of regions)
      device.queue.writeBuffer(
        buffer,
        offset,
        new Uint32Array(words).fill(value),
      );
    return;
  }
  const layout = bindGroupLayout(device, [
    { binding: 0, type: "uniform" },
    { binding: 1, type: "storage" },
  ]);
  const pipeline = device.createComputePipeline({
    label: "lowbit fill",
    layout: device.createPipelineLayout({ bindGroupLayouts: [layout] }),
    compute: { module: device.createShaderModule({ code }) },
  });
  const step = 256;
  const uniforms = device.createBuffer({
    label: "lowbit fill",
    size: step * regions.length,
    usage: GPUBufferUsage.UNIFORM | GPUBufferUsage.COPY_DST,
  });
  const data = new Uint32Array((step / 4) * regions.length);
  const encoder = device.createCommandEncoder();
  const pass = encoder.beginComputePass();
  pass.setPipeline(pipeline);
  regions.forEach(({ buffer, offset, words, value }, i) => {
    const groups = Math.min(4096, Math.ceil(words / 256));
    data.set([offset / 4, words, value, 256 * groups], (step / 4) * i);
    pass.setBindGroup(
      0,
      device.createBindGroup({
        layout,
        entries: [
          {
            binding: 0,
            resource: { buffer: uniforms, offset: step * i, size: 16 },
          },
          { binding: 1, resource: { buffer } },
        ],
      }),
    );
    pass.dispatchWorkgroups(groups);
  });
  pass.end();
  device.queue.writeBuffer(uniforms, 0, data);
  device.queue.submit([encoder.finish()]);
  uniforms.destroy();
}
