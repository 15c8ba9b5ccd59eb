// Chiron guest interface, version 1, for AssemblyScript: see spec/guest.wit for what every call does.
//
// A guest has no start function, so nothing may need one: keep what lasts in `memory.data` and avoid `new`,
// arrays and string operations. Addresses are usize, read and written with load and store.

@external("chiron", "schema") export declare function hostSchema(to: usize, capacity: u32): i32;
@external("chiron", "random") export declare function hostRandom(to: usize, length: u32): i32;
@external("chiron", "header") export declare function hostHeader(header: usize, length: u32): i32;
@external("chiron", "log") export declare function hostLog(text: usize, length: u32): i32;
@external("chiron", "statistics")
export declare function hostStatistics(kind: u32, index: u32, to: usize, capacity: u32): i32;
@external("chiron", "batch")
export declare function hostBatch(first: u32, count: u32, to: usize, capacity: u32): i32;
@external("chiron", "targets")
export declare function hostTargets(first: u32, count: u32, to: usize, capacity: u32): i32;
@external("chiron", "graph") export declare function hostGraph(bytes: usize, length: u32): i32;
@external("chiron", "plan") export declare function hostPlan(plan: usize, length: u32): i32;

export const ALL_VALUES: u32 = 0, COLUMN: u32 = 1, ROWS_PER_TARGET: u32 = 2, ROW_COUNTS: u32 = 3;
export const SGD: u32 = 0, ADAMW: u32 = 1, CONSTANT: u32 = 0, COSINE: u32 = 1;

const schema = memory.data(32);
const words = memory.data(256);

/** Fetch the schema; false when the host refuses. The functions below read it. */
export function fetchSchema(): bool { return hostSchema(schema, 32) >= 0 && load<u32>(schema) == 1; }
export function rank(): u32 { return load<u32>(schema, 8); }
export function dimension(index: u32): u32 { return load<u32>(schema + 4 * index, 12); }
export function classes(): u32 { return load<u32>(schema, 24); }

/** Log at most 256 ASCII characters. */
export function log(text: string): void {
  for (let i = 0; i < text.length; i++) store<u8>(words + i, load<u16>(changetype<usize>(text) + 2 * i));
  hostLog(words, text.length);
}

export function declareHeader(
  epochs: u32, batch: u32, workers: u32, parameters: u32, slotMs: u32, createMs: u32,
): i32 {
  store<u32>(words, epochs);
  store<u32>(words, batch, 4);
  store<u32>(words, workers, 8);
  store<u32>(words, parameters, 12);
  store<u32>(words, slotMs, 16);
  store<u32>(words, createMs, 20);
  return hostHeader(words, 24);
}

export function emitPlan(
  optimiser: u32, rate: f32, momentum: f32, decay: f32, schedule: u32, warmupSteps: u32,
): i32 {
  store<u32>(words, 1);
  store<u32>(words, optimiser, 4);
  store<f32>(words, rate, 8);
  store<f32>(words, momentum, 12);
  store<f32>(words, decay, 16);
  store<u32>(words, schedule, 20);
  store<u32>(words, warmupSteps, 24);
  store<u32>(words, 0, 28);
  return hostPlan(words, 32);
}

const BLOCK: u32 = 4096;
const block = memory.data(4096);
let drawn: u32 = 4096; // bytes used of the block; a literal, or the module would need a start function

/** One number of mean 0 and variance 1, nearly normal: the sum of four uniform ones (Irwin-Hall). */
export function gaussian(): f32 {
  if (drawn + 8 > BLOCK) {
    hostRandom(block, BLOCK);
    drawn = 0;
  }
  let sum: f32 = 0;
  for (let i = 0; i < 4; i++, drawn += 2) sum += <f32>load<u16>(block + drawn);
  const mean: f32 = 4 * 65535.0 / 2, deviation: f32 = <f32>65536 * <f32>0.57735027; // sqrt(4 / 12)
  return (sum - mean) * (<f32>1 / deviation);
}

// An ONNX model (protobuf, IR version 8, opset 17), written into a buffer of the guest.

let at: usize = 0, beginning: usize = 0, end: usize = 0, depth: u32 = 0;
const begun = memory.data(32);

export function onnxBegin(buffer: usize, capacity: u32): void {
  at = beginning = buffer;
  end = buffer + capacity;
  number(1, 8);
  text(2, "chiron");
  open(8);
  number(2, 17);
  close();
  open(7);
  text(2, "guest");
}

/** Emit the finished model; the host's status. */
export function onnxEnd(): i32 {
  close();
  return hostGraph(beginning, <u32>(at - beginning));
}

/** The model's input is named as given, with the schema's shape. */
export function onnxInput(name: string): void {
  openValue(11, name);
  for (let i: u32 = 0; i < rank(); i++) shapeDimension(dimension(i));
  for (let i = 0; i < 4; i++) close();
}

export function onnxOutput(name: string, size: u32): void {
  openValue(12, name);
  shapeDimension(size);
  for (let i = 0; i < 4; i++) close();
}

/** Begin a float32 initializer of rank 0, 1 or 2; then exactly its values with `float`, then `close`. */
export function floats(name: string, rank: u32, rows: u32 = 1, columns: u32 = 1): void {
  open(5);
  if (rank > 0) number(1, rows);
  if (rank > 1) number(1, columns);
  number(2, 1);
  text(8, name);
  varint(9 << 3 | 2);
  varint(4 * rows * columns);
}

export function float(value: f32): void {
  if (at + 4 > end) unreachable();
  store<f32>(at, value);
  at += 4;
}

/** Begin a node with one output and up to three inputs; attributes may follow, then `close`. */
export function node(kind: string, name: string, a: string, b: string = "", c: string = ""): void {
  open(1);
  text(1, a);
  if (b.length) text(1, b);
  if (c.length) text(1, c);
  text(2, name);
  text(3, name);
  text(4, kind);
}

export function attributeInt(name: string, value: u32): void {
  open(5);
  text(1, name);
  number(3, value);
  number(20, 2);
  close();
}

/** End an initializer or node. The length goes before the body, which moves up to make room for it. */
export function close(): void {
  const start = load<usize>(begun + 4 * --depth), length = at - start;
  varint(<u32>length);
  const shift = at - start - length;
  memory.copy(start + shift, start, length);
  at = start;
  varint(<u32>length);
  at += length;
}

function open(field: u32): void {
  varint(field << 3 | 2);
  store<usize>(begun + 4 * depth++, at);
}

function openValue(field: u32, name: string): void {
  open(field);
  text(1, name);
  open(2);
  open(1);
  number(1, 1);
  open(2);
  open(1);
  text(2, "N");
  close();
}

function shapeDimension(size: u32): void {
  open(1);
  number(1, size);
  close();
}

function text(field: u32, value: string): void {
  varint(field << 3 | 2);
  varint(value.length);
  for (let i = 0; i < value.length; i++) byte(load<u16>(changetype<usize>(value) + 2 * i));
}

function number(field: u32, value: u32): void {
  varint(field << 3);
  varint(value);
}

function varint(value: u32): void {
  for (; value >= 0x80; value >>= 7) byte(value | 0x80);
  byte(value);
}

function byte(value: u32): void {
  if (at >= end) unreachable();
  store<u8>(at++, <u8>value);
}
