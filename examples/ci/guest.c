/* A linear classifier for rows of numbers: what a project of its own tests for leaks in CI. */
#include "chiron.h"
#include "chiron_onnx.h"

enum { PARAMETERS = 16384 };

static uint8_t model[4 * PARAMETERS + 4096];

static uint32_t row_values(const ChironSchema *schema) {
  return schema->shape[0] * schema->shape[1] * schema->shape[2];
}

int32_t configure(void) {
  ChironSchema schema;
  if (chiron_schema(&schema, sizeof schema) < 0) return 1;
  if (schema.rank != 1 || (row_values(&schema) + 1) * schema.classes > PARAMETERS) {
    chiron_log_text("rows of rank 1 only, and not too many values\n");
    return 2;
  }
  ChironHeader header = {
      .epochs = 5, .batch = 16, .workers = 1, .parameters = PARAMETERS, .slot_ms = 20, .create_ms = 1000};
  return chiron_header(&header, sizeof header);
}

static void zeros(OnnxWriter *w, const char *name, const int64_t *dims, uint32_t rank, uint32_t count) {
  onnx_floats(w, name, dims, rank);
  for (uint32_t i = 0; i < count; i++) onnx_float(w, 0);
}

int32_t create(void) {
  ChironSchema schema;
  ChironSummary all;
  if (chiron_schema(&schema, sizeof schema) < 0) return 1;
  if (chiron_statistics(CHIRON_ALL_VALUES, 0, &all, sizeof all) < 0) return 2;
  uint32_t values = row_values(&schema);
  int64_t shape[] = {values, schema.classes}, *classes = shape + 1;
  OnnxWriter w = onnx_begin(model, sizeof model);
  onnx_input(&w, "x", shape, 1);
  onnx_output(&w, "logits", classes, 1);
  zeros(&w, "weight", shape, 2, values * schema.classes);
  zeros(&w, "bias", classes, 1, schema.classes);
  onnx_node(&w, "Gemm", "logits", "x", "weight", "bias", NULL);
  onnx_node_end(&w);
  if (!onnx_end(&w) || chiron_graph(w.bytes, w.used) < 0) return 3;
  /* The secret know-how: smaller steps for larger values. */
  ChironPlan plan = {
      .version = 1, .optimiser = CHIRON_ADAMW, .learning_rate = 0.1f / (1 + all.deviation), .schedule = CHIRON_COSINE};
  return chiron_plan(&plan, sizeof plan);
}
