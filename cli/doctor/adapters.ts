/** What WebGPU has, in words and numbers. */
export interface Adapter {
  readonly name: string;
  /** Computed by the processor. */
  readonly software: boolean;
  /** Those that decide how lowbit works. */
  readonly limits: Readonly<Record<string, number>>;
  readonly features: readonly string[];
}

const limitNames = [
  "maxBufferSize",
  "maxStorageBufferBindingSize",
  "maxStorageBuffersPerShaderStage",
  "maxComputeWorkgroupsPerDimension",
  "maxComputeInvocationsPerWorkgroup",
] as const;

export function describeAdapter(
  info: GPUAdapterInfo,
  { limits, features }: Pick<GPUAdapter, "limits" | "features">,
): Adapter {
  const { vendor, architecture, device, description } = info;
  const words = [vendor, architecture, device, description].filter(Boolean);
  const name = [...new Set(words)].join(" ");
  return {
    name: name || "an adapter without a name",
    software: /swiftshader|llvmpipe|lavapipe|software/i.test(name),
    limits: Object.fromEntries(limitNames.map((key) => [key, limits[key]])),
    features: [...features].sort(),
  };
}

/** The adapter in use with what it could do, then others that can be asked for. */
export async function listAdapters(own: Adapter): Promise<Adapter[]> {
  const { findGPU } = await import("lowbit/webgpu");
  const gpu = await findGPU();
  const wishes: GPURequestAdapterOptions[] = [
    { powerPreference: "high-performance" },
    { powerPreference: "low-power" },
    { forceFallbackAdapter: true },
  ];
  const found: Adapter[] = [];
  for (const wish of wishes) {
    const adapter = await gpu.requestAdapter(wish).catch(() => null);
    if (!adapter) continue;
    const described = describeAdapter(adapter.info, adapter);
    if (!found.some(({ name }) => name === described.name))
      found.push(described);
  }
  return found.length > 0 ? found : [own];
}
