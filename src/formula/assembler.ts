/** A small WebAssembly assembler: functions with local variables, and a module of them. */
import { doWhile, i32, leb, type Code } from "./instructions.ts";

export type ValueType = "i32" | "i64" | "f32" | "f64" | "v128";

const typeBytes: Readonly<Record<ValueType, number>> = {
  i32: 0x7f,
  i64: 0x7e,
  f32: 0x7d,
  f64: 0x7c,
  v128: 0x7b,
};

const join = (parts: readonly Code[]): number[] => parts.flat();

/** A function under construction: parameters first, then locals as they are asked for. */
export class FunctionBuilder {
  readonly index: number;
  readonly parameters: readonly ValueType[];
  readonly result: ValueType | undefined;
  readonly #locals: ValueType[] = [];
  readonly #body: number[] = [];

  constructor(
    index: number,
    parameters: readonly ValueType[],
    result?: ValueType,
  ) {
    this.index = index;
    this.parameters = parameters;
    this.result = result;
  }

  /** A new local variable. */
  local(type: ValueType): Local {
    this.#locals.push(type);
    return new Local(this.parameters.length + this.#locals.length - 1);
  }

  /** A parameter, as a variable. */
  parameter(index: number): Local {
    return new Local(index);
  }

  emit(...code: Code[]): void {
    for (const part of code) for (const byte of part) this.#body.push(byte);
  }

  /** What `write` emits, as code of its own. */
  capture(write: () => void): Code {
    const start = this.#body.length;
    write();
    return this.#body.splice(start);
  }

  /** A new local set to the value of an expression. */
  let(type: ValueType, value: Code): Local {
    const local = this.local(type);
    this.emit(local.set(value));
    return local;
  }

  /** Runs `body` `count` times (1 or more, known now). */
  repeat(count: number, body: () => void): void {
    if (count === 1) return body();
    const left = this.local("i32");
    this.emit(left.set(i32.const(count)));
    const code = this.capture(body);
    this.emit(doWhile(code, left.tee(i32.sub(left.get, i32.const(1)))));
  }

  call(target: FunctionBuilder, ...args: Code[]): Code {
    return [...join(args), 0x10, ...leb(target.index)];
  }

  /** @internal */
  bytes(): number[] {
    const locals = this.#locals.map((type) => [1, typeBytes[type]]);
    const code = [...leb(locals.length), ...join(locals), ...this.#body, 0x0b];
    return [...leb(code.length), ...code];
  }
}

/** A variable of a function. */
export class Local {
  readonly get: Code;
  readonly #index: Code;

  constructor(index: number) {
    this.#index = leb(index);
    this.get = [0x20, ...this.#index];
  }

  set(value: Code): Code {
    return [...value, 0x21, ...this.#index];
  }

  /** Sets and leaves the value. */
  tee(value: Code): Code {
    return [...value, 0x22, ...this.#index];
  }

  /** Adds a constant, in place. */
  bump(by: number): Code {
    return this.set(i32.add(this.get, i32.const(by)));
  }
}

/** A module that imports its memory as `env.memory` and exports functions. */
export class ModuleBuilder {
  readonly #functions: FunctionBuilder[] = [];
  readonly #exports = new Map<string, FunctionBuilder>();

  function(
    parameters: readonly ValueType[],
    result?: ValueType,
  ): FunctionBuilder {
    const made = new FunctionBuilder(
      this.#functions.length,
      parameters,
      result,
    );
    this.#functions.push(made);
    return made;
  }

  export(name: string, target: FunctionBuilder): void {
    this.#exports.set(name, target);
  }

  /** @param memory what the module's memory must be, see WebAssembly.Memory. */
  bytes(memory: {
    readonly initial: number;
    /** In pages; must be given for a shared memory. */
    readonly maximum?: number;
    readonly shared: boolean;
  }): Uint8Array<ArrayBuffer> {
    const name = (text: string) => [
      ...leb(text.length),
      ...[...text].map((c) => c.charCodeAt(0)),
    ];
    const section = (id: number, items: readonly Code[]) => {
      const content = [...leb(items.length), ...join(items)];
      return [id, ...leb(content.length), ...content];
    };
    const types = this.#functions.map(({ parameters, result }) => [
      0x60,
      ...leb(parameters.length),
      ...parameters.map((type) => typeBytes[type]),
      ...(result ? [1, typeBytes[result]] : [0]),
    ]);
    return Uint8Array.from([
      ...[0x00, 0x61, 0x73, 0x6d, 0x01, 0x00, 0x00, 0x00],
      ...section(1, types),
      ...section(2, [
        [
          ...name("env"),
          ...name("memory"),
          0x02,
          memory.shared ? 0x03 : memory.maximum === undefined ? 0x00 : 0x01,
          ...leb(memory.initial),
          ...(memory.maximum === undefined ? [] : leb(memory.maximum)),
        ],
      ]),
      ...section(
        3,
        this.#functions.map(({ index }) => leb(index)),
      ),
      ...section(
        7,
        [...this.#exports].map(([text, { index }]) => [
          ...name(text),
          0x00,
          ...leb(index),
        ]),
      ),
      ...section(
        10,
        this.#functions.map((one) => one.bytes()),
      ),
    ]);
  }
}
