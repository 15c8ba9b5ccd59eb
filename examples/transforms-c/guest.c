/* A linear classifier whose guest also transforms: transforms.c normalises each value of a row, jitters the
 * rows of each training step, and corrects the scores for targets that are rarer in training than elsewhere. */
#include "chiron.h"
#include "chiron_onnx.h"
#include "notes.h"

enum { EPOCHS = 20, BATCH = 32, WORKERS = 2 };

static uint8_t model[1 << 19];
static Notes notes;

static uint32_t row_values(const ChironSchema *schema) {
  return schema->shape[0] * schema->shape[1] * schema->shape[2];
}

static uint32_t size_class(uint32_t parameters) {
  for (uint32_t size = 1 << 12; size <= 1 << 16; size <<= 2)
    if (parameters <= size) return size;
  return 0;
}

int32_t configure(void) {
  ChironSchema schema;
  if (chiron_schema(&schema, sizeof schema) < 0 || schema.version != 1) return 1;
  uint32_t parameters = size_class((row_values(&schema) + 1) * schema.classes);
  if (row_values(&schema) > MAX_VALUES || parameters == 0) {
    chiron_log_text("rows have too many values for this classifier\n");
    return 2;
  }
  ChironHeader header = {EPOCHS, BATCH, WORKERS, parameters, .slot_ms = 20, .create_ms = 2000};
  chiron_log_text("linear classifier with normalised rows, jitter and corrected scores\n");
  return chiron_header(&header, sizeof header);
}

static int study(const ChironSchema *schema) {
  ChironSummary column;
  float total = 0;
  notes.values = row_values(schema);
  notes.classes = schema->classes;
  for (uint32_t i = 0; i < notes.values; i++) {
    if (chiron_statistics(CHIRON_COLUMN, i, &column, sizeof column) < 0) return 0;
    notes.mean[i] = column.mean;
    notes.scale[i] = column.deviation > 1e-6f ? 1 / column.deviation : 0; /* a constant says nothing */
  }
  if (chiron_statistics(CHIRON_ROWS_PER_TARGET, 0, notes.prior, sizeof notes.prior) < 0) return 0;
  for (uint32_t i = 0; i < notes.classes; i++) total += notes.prior[i] += 1; /* no target is impossible */
  for (uint32_t i = 0; i < notes.classes; i++) notes.prior[i] /= total;
  return chiron_keep(&notes, sizeof notes) >= 0;
}

static int emit_graph(const ChironSchema *schema) {
  OnnxWriter w = onnx_begin(model, sizeof model);
  int64_t shape[3] = {schema->shape[0], schema->shape[1], schema->shape[2]};
  int64_t dims[2] = {notes.values, notes.classes};
  onnx_input(&w, "x", shape, schema->rank);
  onnx_output(&w, "logits", dims + 1, 1);
  onnx_floats(&w, "weight", dims, 2);
  for (uint32_t i = 0; i < notes.values * notes.classes; i++) onnx_float(&w, 0);
  onnx_floats(&w, "bias", dims + 1, 1);
  for (uint32_t i = 0; i < notes.classes; i++) onnx_float(&w, 0);
  onnx_node(&w, "Flatten", "flat", "x", NULL);
  onnx_attribute_int(&w, "axis", 1);
  onnx_node_end(&w);
  onnx_node(&w, "Gemm", "logits", "flat", "weight", "bias", NULL);
  onnx_node_end(&w);
  return onnx_end(&w) && chiron_graph(w.bytes, w.used) >= 0;
}

int32_t create(void) {
  ChironSchema schema;
  if (chiron_schema(&schema, sizeof schema) < 0 || !study(&schema) || !emit_graph(&schema)) return 1;
  ChironPlan plan = {
      .version = 1,
      .optimiser = CHIRON_SGD,
      .learning_rate = 0.05f,
      .momentum = 0.9f,
      .weight_decay = 1e-4f,
      .schedule = CHIRON_COSINE,
      .warmup_steps = 10,
  };
  return chiron_plan(&plan, sizeof plan);
}
