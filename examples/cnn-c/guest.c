/* A small convolutional net for images of shape [channels, height, width], such as 1x28x28 Fashion-MNIST:
 * two blocks of 3x3 convolution, ReLU and 2x2 pooling, then one hidden layer.
 *
 * configure() sees the shape of the data and says publicly how long training takes. create() sees the data
 * and chooses what stays secret: the hidden layer's width, the optimiser's settings, how pixels are scaled. */
#include "chiron.h"
#include "chiron_onnx.h"

enum { FILTERS_1 = 16, FILTERS_2 = 32, MIN_HIDDEN = 32, GOOD_HIDDEN = 128, MAX_CLASSES = 256 };
enum { EPOCHS = 5, BATCH = 64, WORKERS = 2 };

static const uint32_t size_classes[] = {1 << 14, 1 << 16, 1 << 18};
static uint8_t model[(1 << 20) + (1 << 14)]; /* the largest size class in float32, and room for names */
static ChironRandom noise = CHIRON_RANDOM_INIT;

/* Two poolings halve each side twice. */
static uint32_t pooled_values(const ChironSchema *schema) {
  return FILTERS_2 * (schema->shape[1] / 4) * (schema->shape[2] / 4);
}

/* The widest hidden layer that a size class leaves room for. */
static uint32_t widest(const ChironSchema *schema, uint32_t parameters) {
  uint32_t filters = FILTERS_1 * (schema->shape[0] * 9 + 1) + FILTERS_2 * (FILTERS_1 * 9 + 1);
  uint32_t fixed = filters + schema->classes;
  return parameters < fixed ? 0 : (parameters - fixed) / (pooled_values(schema) + 1 + schema->classes);
}

static uint32_t size_class(const ChironSchema *schema) {
  uint32_t last = sizeof size_classes / sizeof *size_classes - 1, i = 0;
  while (i < last && widest(schema, size_classes[i]) < GOOD_HIDDEN) i++;
  return size_classes[i];
}

int32_t configure(void) {
  ChironSchema schema;
  if (chiron_schema(&schema, sizeof schema) < 0 || schema.version != 1) return 1;
  if (schema.rank != 3 || schema.shape[1] % 4 != 0 || schema.shape[2] % 4 != 0) {
    chiron_log_text("this net takes images [channels, height, width] whose sides are multiples of 4\n");
    return 2;
  }
  if (widest(&schema, size_class(&schema)) < MIN_HIDDEN) {
    chiron_log_text("images are too large for this net: scale them down\n");
    return 3;
  }
  ChironHeader header = {
      .epochs = EPOCHS,
      .batch = BATCH,
      .workers = WORKERS,
      .parameters = size_class(&schema),
      .slot_ms = 100,
      .create_ms = 5000,
  };
  chiron_log_text("convolutional net: two blocks and one hidden layer, AdamW\n");
  return chiron_header(&header, sizeof header);
}

typedef struct {
  float rows;      /* training rows */
  float imbalance; /* rows of the commonest target over the mean of all */
  ChironSummary values;
} Findings;

static int study(const ChironSchema *schema, Findings *found) {
  float counts[2], per_target[MAX_CLASSES], most = 0;
  if (schema->classes > MAX_CLASSES) return 0;
  if (chiron_statistics(CHIRON_ALL_VALUES, 0, &found->values, sizeof found->values) < 0) return 0;
  if (chiron_statistics(CHIRON_ROWS_PER_TARGET, 0, per_target, sizeof per_target) < 0) return 0;
  if (chiron_statistics(CHIRON_ROW_COUNTS, 0, counts, sizeof counts) < 0) return 0;
  for (uint32_t i = 0; i < schema->classes; i++) most = per_target[i] > most ? per_target[i] : most;
  found->rows = counts[0];
  found->imbalance = most * (float)schema->classes / counts[0];
  return 1;
}

/* Few rows: a narrower layer, which has less to learn by heart. */
static uint32_t choose_hidden(const ChironSchema *schema, const Findings *found) {
  float room = (float)widest(schema, size_class(schema));
  float wanted = chiron_clamp(found->rows / (float)(8 * schema->classes), MIN_HIDDEN, GOOD_HIDDEN);
  return (uint32_t)(wanted < room ? wanted : room) & ~7u; /* whole SIMD vectors */
}

static ChironPlan choose_plan(const Findings *found) {
  float steps = EPOCHS * found->rows / (BATCH * WORKERS);
  /* A short training can afford larger steps; rare targets, whose gradients are noisy, cannot. */
  float rate = 0.002f * __builtin_sqrtf(2500 / (steps + 100)) / __builtin_sqrtf(found->imbalance);
  return (ChironPlan){
      .version = 1,
      .optimiser = CHIRON_ADAMW,
      .learning_rate = chiron_clamp(rate, 0.0005f, 0.004f),
      .weight_decay = chiron_clamp(600 / found->rows, 0.01f, 0.1f),
      .schedule = CHIRON_COSINE,
      .warmup_steps = (uint32_t)chiron_clamp(steps / 25, 1, 200),
  };
}

static void constant(OnnxWriter *w, const char *name, float value) {
  onnx_floats(w, name, NULL, 0);
  onnx_float(w, value);
}

/* Weights of any rank and a bias of `outputs` zeros. He et al., ICCV 2015: deviation sqrt(2 / inputs) keeps
 * the variance through a ReLU. */
static void layer(OnnxWriter *w, const char *weight, const char *bias, const int64_t *dims, uint32_t rank,
                  uint32_t inputs, uint32_t outputs) {
  int64_t bias_dims[1] = {outputs};
  float deviation = __builtin_sqrtf(2 / (float)inputs);
  onnx_floats(w, weight, dims, rank);
  for (uint32_t i = 0; i < inputs * outputs; i++) onnx_float(w, deviation * chiron_gaussian(&noise));
  onnx_floats(w, bias, bias_dims, 1);
  for (uint32_t i = 0; i < outputs; i++) onnx_float(w, 0);
}

static void filters(OnnxWriter *w, const char *weight, const char *bias, uint32_t inputs, uint32_t outputs) {
  layer(w, weight, bias, (int64_t[]){outputs, inputs, 3, 3}, 4, inputs * 9, outputs);
}

static void dense(OnnxWriter *w, const char *weight, const char *bias, uint32_t inputs, uint32_t outputs) {
  layer(w, weight, bias, (int64_t[]){inputs, outputs}, 2, inputs, outputs);
}

/* 3x3 convolution that keeps the size, ReLU, 2x2 maximum pooling that halves it. */
typedef struct {
  const char *weight, *bias, *convolved, *active, *pooled;
} BlockNames;

static void block(OnnxWriter *w, const char *input, const BlockNames *names) {
  static const int64_t kernel[2] = {3, 3}, pads[4] = {1, 1, 1, 1}, window[2] = {2, 2};
  onnx_node(w, "Conv", names->convolved, input, names->weight, names->bias, NULL);
  onnx_attribute_ints(w, "kernel_shape", kernel, 2);
  onnx_attribute_ints(w, "pads", pads, 4);
  onnx_node_end(w);
  onnx_node(w, "Relu", names->active, names->convolved, NULL);
  onnx_node_end(w);
  onnx_node(w, "MaxPool", names->pooled, names->active, NULL);
  onnx_attribute_ints(w, "kernel_shape", window, 2);
  onnx_attribute_ints(w, "strides", window, 2);
  onnx_node_end(w);
}

static void emit_weights(OnnxWriter *w, const ChironSchema *schema, const Findings *found, uint32_t hidden) {
  float deviation = found->values.deviation;
  constant(w, "const.mean", found->values.mean);
  constant(w, "const.scale", deviation > 0 ? 1 / deviation : 1);
  filters(w, "conv1.weight", "conv1.bias", schema->shape[0], FILTERS_1);
  filters(w, "conv2.weight", "conv2.bias", FILTERS_1, FILTERS_2);
  dense(w, "hidden.weight", "hidden.bias", pooled_values(schema), hidden);
  dense(w, "output.weight", "output.bias", hidden, schema->classes);
}

static void emit_nodes(OnnxWriter *w) {
  onnx_node(w, "Sub", "centred", "x", "const.mean", NULL);
  onnx_node_end(w);
  onnx_node(w, "Mul", "normal", "centred", "const.scale", NULL);
  onnx_node_end(w);
  block(w, "normal", &(BlockNames){"conv1.weight", "conv1.bias", "convolved1", "active1", "pooled1"});
  block(w, "pooled1", &(BlockNames){"conv2.weight", "conv2.bias", "convolved2", "active2", "pooled2"});
  onnx_node(w, "Flatten", "flat", "pooled2", NULL);
  onnx_attribute_int(w, "axis", 1);
  onnx_node_end(w);
  onnx_node(w, "Gemm", "hidden", "flat", "hidden.weight", "hidden.bias", NULL);
  onnx_node_end(w);
  onnx_node(w, "Relu", "active", "hidden", NULL);
  onnx_node_end(w);
  onnx_node(w, "Gemm", "logits", "active", "output.weight", "output.bias", NULL);
  onnx_node_end(w);
}

int32_t create(void) {
  ChironSchema schema;
  Findings found;
  if (chiron_schema(&schema, sizeof schema) < 0 || !study(&schema, &found)) return 1;
  OnnxWriter w = onnx_begin(model, sizeof model);
  int64_t shape[3] = {schema.shape[0], schema.shape[1], schema.shape[2]}, classes = schema.classes;
  onnx_input(&w, "x", shape, 3);
  onnx_output(&w, "logits", &classes, 1);
  emit_weights(&w, &schema, &found, choose_hidden(&schema, &found));
  emit_nodes(&w);
  if (!onnx_end(&w) || chiron_graph(w.bytes, w.used) < 0) return 2;
  ChironPlan plan = choose_plan(&found);
  return chiron_plan(&plan, sizeof plan);
}
