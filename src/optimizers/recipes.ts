/**
 * Every optimizer and every recipe (an optimizer with the formats of its states,
 * by the name people use): a file and a line each. The door and the registry
 * take what is exported here.
 */
export * from "./adafactor.ts";
export * from "./adagrad.ts";
export * from "./adam.ts";
export * from "./adamw.ts";
export * from "./adan.ts";
export * from "./ademamix.ts";
export * from "./factor.ts";
export * from "./lamb.ts";
export * from "./lars.ts";
export * from "./lion.ts";
export * from "./nadam.ts";
export * from "./rmsprop.ts";
export * from "./schedule-free-adamw.ts";
export * from "./sgd.ts";
export * from "./sgdw.ts";
export * from "./sm3.ts";
