import { readTensorEntries } from "lowbit/io";
import { aboutFile, openInput } from "./files.ts";

/** Names and shapes of the tensors of a safetensors file. @throws InputError */
export async function readShapes(
  name: string,
): Promise<Record<string, readonly number[]>> {
  const file = openInput(name);
  try {
    return await aboutFile(name, async () =>
      Object.fromEntries(
        (await readTensorEntries(file)).entries.map((entry) => [
          entry.name,
          entry.shape,
        ]),
      ),
    );
  } finally {
    file.close();
  }
}
