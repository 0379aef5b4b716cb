// Run as a child by gpu-env.mjs: one compute dispatch in Node, checked.

try {
  console.log(JSON.stringify(await probe()));
} catch (error) {
  console.log(JSON.stringify({ ok: false, why: String(error) }));
}

async function probe() {
  const { create, globals } = await import("webgpu");
  Object.assign(globalThis, globals);
  // Dawn crashes if this object is collected while a device is in use.
  const gpu = create([]);
  Object.assign(globalThis, { dawn: gpu });

  const adapter = await gpu.requestAdapter();
  if (!adapter) return { ok: false, why: "requestAdapter() gave null" };
  const device = await adapter.requestDevice();
  const result = await triple(device);
  await device.queue.onSubmittedWorkDone();
  device.destroy();

  const { description, device: name, vendor } = adapter.info;
  const expected = "0,3,6,9";
  return result === expected
    ? { ok: true, adapter: description || name || vendor }
    : { ok: false, why: `a dispatch gave ${result}, not ${expected}` };
}

async function triple(/** @type {GPUDevice} */ device) {
  const module = device.createShaderModule({
    code: `
      @group(0) @binding(0) var<storage, read_write> out: array<u32>;
      @compute @workgroup_size(4)
      fn main(@builtin(global_invocation_id) id: vec3u) {
        out[id.x] = id.x * 3u;
      }`,
  });
  const pipeline = await device.createComputePipelineAsync({
    layout: "auto",
    compute: { module },
  });
  const { STORAGE, COPY_SRC, COPY_DST, MAP_READ } = GPUBufferUsage;
  const out = device.createBuffer({ size: 16, usage: STORAGE | COPY_SRC });
  const read = device.createBuffer({ size: 16, usage: COPY_DST | MAP_READ });
  const bindings = device.createBindGroup({
    layout: pipeline.getBindGroupLayout(0),
    entries: [{ binding: 0, resource: { buffer: out } }],
  });
  const encoder = device.createCommandEncoder();
  const pass = encoder.beginComputePass();
  pass.setPipeline(pipeline);
  pass.setBindGroup(0, bindings);
  pass.dispatchWorkgroups(1);
  pass.end();
  encoder.copyBufferToBuffer(out, 0, read, 0, 16);
  device.queue.submit([encoder.finish()]);
  await read.mapAsync(GPUMapMode.READ);
  const result = new Uint32Array(read.getMappedRange()).join();
  read.unmap();
  return result;
}
