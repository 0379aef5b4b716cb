/** GPT-2 medium's parameters as they are trained: 292 tensors, 354.8 million elements. */
export function gpt2Medium(): Map<string, number[]> {
  const width = 1024;
  const shapes = new Map<string, number[]>([
    ["wte", [50257, width]],
    ["wpe", [1024, width]],
  ]);
  for (let i = 0; i < 24; i++) {
    const layer: Record<string, number[]> = {
      "ln_1.weight": [width],
      "ln_1.bias": [width],
      "attn.c_attn.weight": [width, 3 * width],
      "attn.c_attn.bias": [3 * width],
      "attn.c_proj.weight": [width, width],
      "attn.c_proj.bias": [width],
      "ln_2.weight": [width],
      "ln_2.bias": [width],
      "mlp.c_fc.weight": [width, 4 * width],
      "mlp.c_fc.bias": [4 * width],
      "mlp.c_proj.weight": [4 * width, width],
      "mlp.c_proj.bias": [width],
    };
    for (const [name, shape] of Object.entries(layer))
      shapes.set(`h.${i}.${name}`, shape);
  }
  shapes.set("ln_f.weight", [width]);
  shapes.set("ln_f.bias", [width]);
  return shapes;
}
