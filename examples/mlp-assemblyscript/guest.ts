// A perceptron with one hidden layer for any rows of numbers: tables, or small images such as 8x8 digits.
//
// configure() sees the shape of the data and says publicly how long training takes. create() sees the data
// and chooses what stays secret: the hidden layer's width, the learning rate, the weight decay.
import * as chiron from "chiron";

const MAX_CLASSES: u32 = 256, MIN_WIDTH: u32 = 16, GOOD_WIDTH: u32 = 128;
const EPOCHS: u32 = 20, BATCH: u32 = 32, WORKERS: u32 = 2;
const MODEL_BYTES: u32 = (1 << 20) + (1 << 14); // the largest size class in float32, and room for names
const model = memory.data(1064960);
const numbers = memory.data(1024); // what the host writes: float32

function rowValues(): u32 {
  return chiron.dimension(0) * chiron.dimension(1) * chiron.dimension(2);
}

/** Trainable values: inputs*width + width + width*classes + classes. */
function widest(parameters: u32): u32 {
  return (parameters - chiron.classes()) / (rowValues() + 1 + chiron.classes());
}

/** The smallest size class (2^12, 2^14, 2^16, 2^18) that leaves room for a good width; the largest if none
 * does. Depends on the public schema alone, so that create() comes to the same answer as configure(). */
function sizeClass(): u32 {
  let parameters: u32 = 1 << 12;
  while (parameters < 1 << 18 && widest(parameters) < GOOD_WIDTH) parameters <<= 2;
  return parameters;
}

export function configure(): i32 {
  if (!chiron.fetchSchema()) return 1;
  const parameters = sizeClass();
  if (widest(parameters) < MIN_WIDTH) {
    chiron.log("rows are too wide for this perceptron: use a convolutional guest\n");
    return 2;
  }
  chiron.log("perceptron: one hidden layer, AdamW\n");
  const small = parameters <= 1 << 16;
  return chiron.declareHeader(EPOCHS, BATCH, WORKERS, parameters, small ? 20 : 50, small ? 2000 : 5000);
}

let rows: f32 = 0, imbalance: f32 = 0, mean: f32 = 0, deviation: f32 = 0; // what study() found

function study(): bool {
  if (chiron.classes() > MAX_CLASSES) return false;
  if (chiron.hostStatistics(chiron.ALL_VALUES, 0, numbers, 16) < 0) return false;
  mean = load<f32>(numbers);
  deviation = load<f32>(numbers, 4);
  if (chiron.hostStatistics(chiron.ROWS_PER_TARGET, 0, numbers, 1024) < 0) return false;
  let most: f32 = 0;
  for (let i: u32 = 0; i < chiron.classes(); i++) most = max(most, load<f32>(numbers + 4 * i));
  if (chiron.hostStatistics(chiron.ROW_COUNTS, 0, numbers, 8) < 0) return false;
  rows = load<f32>(numbers);
  imbalance = most * <f32>chiron.classes() / rows;
  return true;
}

function clamp(value: f32, low: f32, high: f32): f32 {
  return value < low ? low : value > high ? high : value;
}

/** About as many hidden units as there are rows a target: more would only learn them by heart. */
function chooseWidth(): u32 {
  const wanted = rows / <f32>chiron.classes();
  return <u32>clamp(wanted, <f32>MIN_WIDTH, <f32>widest(sizeClass())) & ~7; // whole SIMD vectors
}

function emitPlan(width: u32): i32 {
  const parameters = <f32>((rowValues() + 1 + chiron.classes()) * width + chiron.classes());
  // Smaller steps for wide layers and for rare targets, whose gradients are noisy.
  const rate = <f32>0.004 * sqrt<f32>(<f32>GOOD_WIDTH / <f32>width) / sqrt<f32>(imbalance);
  const decay = clamp(<f32>0.005 * parameters / rows, 0.005, 0.1);
  const warmupSteps = <u32>clamp(rows / <f32>(BATCH * WORKERS), 1, 100);
  return chiron.emitPlan(chiron.ADAMW, clamp(rate, 0.0005, 0.01), 0, decay, chiron.COSINE, warmupSteps);
}

function constant(name: string, value: f32): void {
  chiron.floats(name, 0);
  chiron.float(value);
  chiron.close();
}

/** He et al., ICCV 2015: deviation sqrt(2 / inputs) keeps the variance through a ReLU. */
function layer(weight: string, bias: string, inputs: u32, outputs: u32): void {
  const scale = sqrt<f32>(<f32>2 / <f32>inputs);
  chiron.floats(weight, 2, inputs, outputs);
  for (let i: u32 = 0; i < inputs * outputs; i++) chiron.float(scale * chiron.gaussian());
  chiron.close();
  chiron.floats(bias, 1, outputs);
  for (let i: u32 = 0; i < outputs; i++) chiron.float(0);
  chiron.close();
}

function node(kind: string, output: string, a: string, b: string = "", c: string = ""): void {
  chiron.node(kind, output, a, b, c);
  chiron.close();
}

function emitGraph(width: u32): i32 {
  chiron.onnxBegin(model, MODEL_BYTES);
  chiron.onnxInput("x");
  chiron.onnxOutput("logits", chiron.classes());
  constant("const.mean", mean);
  constant("const.scale", deviation > 0 ? <f32>1 / deviation : 1);
  layer("hidden.weight", "hidden.bias", rowValues(), width);
  layer("output.weight", "output.bias", width, chiron.classes());
  node("Sub", "centred", "x", "const.mean");
  node("Mul", "normal", "centred", "const.scale");
  if (chiron.rank() > 1) {
    chiron.node("Flatten", "flat", "normal");
    chiron.attributeInt("axis", 1);
    chiron.close();
  }
  node("Gemm", "hidden", chiron.rank() > 1 ? "flat" : "normal", "hidden.weight", "hidden.bias");
  node("Relu", "active", "hidden");
  node("Gemm", "logits", "active", "output.weight", "output.bias");
  return chiron.onnxEnd();
}

export function create(): i32 {
  if (!chiron.fetchSchema() || !study()) return 1;
  const width = chooseWidth();
  if (emitGraph(width) < 0) return 2;
  return emitPlan(width);
}
