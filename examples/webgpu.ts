import { adamw8bit, createOptimizer } from "lowbit";

/** A step on buffers of your own device: one submit, nothing is read back. */
export async function train(device: GPUDevice, gradient: GPUBuffer) {
  const w = device.createBuffer({
    size: 4 * 8192,
    usage: GPUBufferUsage.STORAGE | GPUBufferUsage.COPY_SRC,
  });
  const optimizer = await createOptimizer(
    adamw8bit({ lr: 1e-3 }),
    { w: { data: w, shape: [8192] } },
    { device },
  );
  for (let step = 0; step < 10; step++) await optimizer.step({ w: gradient });
  return { w, stats: await optimizer.stats() };
}
