// A perceptron with one hidden layer for any rows of numbers: tables, or small images such as 8x8 digits.
//
// configure() sees the shape of the data and says publicly how long training takes. create() sees the data
// and chooses what stays secret: the hidden layer's width, the learning rate, the weight decay.
#include "chiron.h"
#include "chiron_onnx.h"

namespace {

constexpr uint32_t MAX_CLASSES = 256, MIN_WIDTH = 16, GOOD_WIDTH = 128, EPOCHS = 20, BATCH = 32, WORKERS = 2;
constexpr uint32_t SIZE_CLASSES[] = {1 << 12, 1 << 14, 1 << 16, 1 << 18};
uint8_t model[(1 << 20) + (1 << 14)];  // the largest size class in float32, and room for names
ChironRandom noise = CHIRON_RANDOM_INIT;

uint32_t row_values(const ChironSchema &schema) {
  return schema.shape[0] * schema.shape[1] * schema.shape[2];
}

// Trainable values: inputs*width + width + width*classes + classes.
uint32_t widest(const ChironSchema &schema, uint32_t parameters) {
  return (parameters - schema.classes) / (row_values(schema) + 1 + schema.classes);
}

// The smallest size class that leaves room for a good width; the largest if none does. Depends on the public
// schema alone, so that create() comes to the same answer as configure().
uint32_t size_class(const ChironSchema &schema) {
  for (uint32_t parameters : SIZE_CLASSES)
    if (widest(schema, parameters) >= GOOD_WIDTH) return parameters;
  return SIZE_CLASSES[3];
}

struct Findings {
  float rows;      // training rows
  float imbalance; // rows of the commonest target over the mean of all
  ChironSummary values;
};

bool study(const ChironSchema &schema, Findings &found) {
  float counts[2], per_target[MAX_CLASSES], most = 0;
  if (schema.classes > MAX_CLASSES) return false;
  if (chiron_statistics(CHIRON_ALL_VALUES, 0, &found.values, sizeof found.values) < 0) return false;
  if (chiron_statistics(CHIRON_ROWS_PER_TARGET, 0, per_target, sizeof per_target) < 0) return false;
  if (chiron_statistics(CHIRON_ROW_COUNTS, 0, counts, sizeof counts) < 0) return false;
  for (uint32_t i = 0; i < schema.classes; i++) most = per_target[i] > most ? per_target[i] : most;
  found.rows = counts[0];
  found.imbalance = most * (float)schema.classes / counts[0];
  return true;
}

// About as many hidden units as there are rows a target: more would only learn them by heart.
uint32_t choose_width(const ChironSchema &schema, const Findings &found) {
  float room = (float)widest(schema, size_class(schema));
  float wanted = found.rows / (float)schema.classes;
  return (uint32_t)chiron_clamp(wanted, MIN_WIDTH, room) & ~7u; // whole SIMD vectors
}

ChironPlan choose_plan(const ChironSchema &schema, const Findings &found, uint32_t width) {
  float parameters = (float)((row_values(schema) + 1 + schema.classes) * width + schema.classes);
  float steps_per_epoch = found.rows / (BATCH * WORKERS);
  // Smaller steps for wide layers and for rare targets, whose gradients are noisy.
  float rate = 0.004f * __builtin_sqrtf(GOOD_WIDTH / (float)width) / __builtin_sqrtf(found.imbalance);
  return {
      .version = 1,
      .optimiser = CHIRON_ADAMW,
      .learning_rate = chiron_clamp(rate, 0.0005f, 0.01f),
      .weight_decay = chiron_clamp(0.005f * parameters / found.rows, 0.005f, 0.1f),
      .schedule = CHIRON_COSINE,
      .warmup_steps = (uint32_t)chiron_clamp(steps_per_epoch, 1, 100),
  };
}

void constant(OnnxWriter &w, const char *name, float value) {
  onnx_floats(&w, name, nullptr, 0);
  onnx_float(&w, value);
}

// He et al., ICCV 2015: deviation sqrt(2 / inputs) keeps the variance through a ReLU.
void layer(OnnxWriter &w, const char *weight, const char *bias, uint32_t inputs, uint32_t outputs) {
  int64_t dims[2] = {inputs, outputs};
  float deviation = __builtin_sqrtf(2 / (float)inputs);
  onnx_floats(&w, weight, dims, 2);
  for (uint32_t i = 0; i < inputs * outputs; i++) onnx_float(&w, deviation * chiron_gaussian(&noise));
  onnx_floats(&w, bias, dims + 1, 1);
  for (uint32_t i = 0; i < outputs; i++) onnx_float(&w, 0);
}

bool emit_graph(const ChironSchema &schema, const Findings &found, uint32_t width) {
  OnnxWriter w = onnx_begin(model, sizeof model);
  int64_t shape[3] = {schema.shape[0], schema.shape[1], schema.shape[2]}, classes = schema.classes;
  float deviation = found.values.deviation;
  onnx_input(&w, "x", shape, schema.rank);
  onnx_output(&w, "logits", &classes, 1);
  constant(w, "const.mean", found.values.mean);
  constant(w, "const.scale", deviation > 0 ? 1 / deviation : 1);
  layer(w, "hidden.weight", "hidden.bias", row_values(schema), width);
  layer(w, "output.weight", "output.bias", width, schema.classes);

  onnx_node(&w, "Sub", "centred", "x", "const.mean", nullptr);
  onnx_node_end(&w);
  onnx_node(&w, "Mul", "normal", "centred", "const.scale", nullptr);
  onnx_node_end(&w);
  if (schema.rank > 1) {
    onnx_node(&w, "Flatten", "flat", "normal", nullptr);
    onnx_attribute_int(&w, "axis", 1);
    onnx_node_end(&w);
  }
  const char *row = schema.rank > 1 ? "flat" : "normal";
  onnx_node(&w, "Gemm", "hidden", row, "hidden.weight", "hidden.bias", nullptr);
  onnx_node_end(&w);
  onnx_node(&w, "Relu", "active", "hidden", nullptr);
  onnx_node_end(&w);
  onnx_node(&w, "Gemm", "logits", "active", "output.weight", "output.bias", nullptr);
  onnx_node_end(&w);
  return onnx_end(&w) && chiron_graph(w.bytes, w.used) >= 0;
}

}  // namespace

int32_t configure() {
  ChironSchema schema;
  if (chiron_schema(&schema, sizeof schema) < 0 || schema.version != 1) return 1;
  uint32_t parameters = size_class(schema);
  if (widest(schema, parameters) < MIN_WIDTH) {
    chiron_log_text("rows are too wide for this perceptron: use a convolutional guest\n");
    return 2;
  }
  ChironHeader header = {
      .epochs = EPOCHS,
      .batch = BATCH,
      .workers = WORKERS,
      .parameters = parameters,
      .slot_ms = parameters <= 1 << 16 ? 20u : 50u,
      .create_ms = parameters <= 1 << 16 ? 2000u : 5000u,
  };
  chiron_log_text("perceptron: one hidden layer, AdamW\n");
  return chiron_header(&header, sizeof header);
}

int32_t create() {
  ChironSchema schema;
  Findings found;
  if (chiron_schema(&schema, sizeof schema) < 0 || !study(schema, found)) return 1;
  uint32_t width = choose_width(schema, found);
  if (!emit_graph(schema, found, width)) return 2;
  ChironPlan plan = choose_plan(schema, found, width);
  return chiron_plan(&plan, sizeof plan);
}
