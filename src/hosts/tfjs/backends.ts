/** Which way to the numbers is taken on which backend. */
import type { Access } from "./access.ts";
import { plainAccess } from "./plain.ts";
import { wasmAccess } from "./wasm.ts";
import { webgpuAccess } from "./webgpu.ts";

const known = new WeakMap<object, Access>();

/** The fastest way that is safe on this backend; found out once. */
export function accessTo(backend: object): Access {
  let access = known.get(backend);
  if (!access)
    known.set(
      backend,
      (access =
        webgpuAccess(backend) ?? wasmAccess(backend) ?? plainAccess(backend)),
    );
  return access;
}
