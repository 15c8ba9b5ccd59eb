/* Writes an ONNX model into a buffer: just the parts of onnx.proto3 that a training graph needs.
 *
 *   OnnxWriter w = onnx_begin(buffer, sizeof buffer);
 *   onnx_input(&w, "x", shape, rank);                       // the batch dimension "N" comes by itself
 *   onnx_output(&w, "logits", &classes, 1);
 *   onnx_floats(&w, "weight", dims, 2); for (...) onnx_float(&w, value); // exactly as many as dims say
 *   onnx_node(&w, "Conv", "convolved", "x", "kernel", "bias", NULL);
 *   onnx_attribute_ints(&w, "pads", pads, 4); onnx_node_end(&w);
 *   if (onnx_end(&w)) chiron_graph(w.bytes, w.used);
 *
 * Message numbers are those of onnx.proto3 (IR version 8); the encoding is protobuf's. */
#ifndef CHIRON_ONNX_H
#define CHIRON_ONNX_H

#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include "chiron.h"

enum { ONNX_IR_VERSION = 8, ONNX_OPSET = 17, ONNX_MAX_DEPTH = 8 };
enum { ONNX_FLOAT = 1, ONNX_INT64 = 7 };                              /* TensorProto.DataType */
enum { ONNX_ATTRIBUTE_FLOAT = 1, ONNX_ATTRIBUTE_INT = 2, ONNX_ATTRIBUTE_INTS = 7 }; /* AttributeProto */

typedef struct {
  uint8_t *bytes;
  uint32_t used, capacity;
  uint32_t begun[ONNX_MAX_DEPTH]; /* where the body of each open message begins */
  uint32_t depth;
  uint64_t values_due; /* of the initializer being written */
  int failed;          /* no room, nested too deep, or a wrong number of values */
} OnnxWriter;

/* Protobuf: varints, fields, nested messages. */

static inline void onnx_byte(OnnxWriter *w, uint8_t byte) {
  if (w->used < w->capacity) w->bytes[w->used++] = byte;
  else w->failed = 1;
}

static inline void onnx_varint(OnnxWriter *w, uint64_t value) {
  for (; value >= 0x80; value >>= 7) onnx_byte(w, (uint8_t)(value | 0x80));
  onnx_byte(w, (uint8_t)value);
}

static inline void onnx_fixed(OnnxWriter *w, uint64_t bits, int bytes) {
  for (int i = 0; i < bytes; i++) onnx_byte(w, (uint8_t)(bits >> (8 * i)));
}

static inline void onnx_number(OnnxWriter *w, uint32_t field, uint64_t value) {
  onnx_varint(w, field << 3);
  onnx_varint(w, value);
}

static inline void onnx_text(OnnxWriter *w, uint32_t field, const char *text) {
  uint32_t length = chiron_text_bytes(text);
  onnx_varint(w, field << 3 | 2);
  onnx_varint(w, length);
  for (uint32_t i = 0; i < length; i++) onnx_byte(w, (uint8_t)text[i]);
}

static inline void onnx_open(OnnxWriter *w, uint32_t field) {
  if (w->depth == ONNX_MAX_DEPTH) { w->failed = 1; return; }
  onnx_varint(w, field << 3 | 2);
  w->begun[w->depth++] = w->used;
}

/* The length goes before the body, which moves up to make room for it. */
static inline void onnx_close(OnnxWriter *w) {
  if (w->failed || w->depth == 0) { w->failed = 1; return; }
  uint32_t begun = w->begun[--w->depth], length = w->used - begun;
  onnx_varint(w, length);
  if (w->failed) return;
  uint32_t shift = w->used - begun - length;
  for (uint32_t i = length; i > 0; i--) w->bytes[begun + shift + i - 1] = w->bytes[begun + i - 1];
  w->used = begun;
  onnx_varint(w, length);
  w->used += length;
}

/* ModelProto: 1 ir_version, 2 producer_name, 7 graph, 8 opset_import (2 version). */
static inline OnnxWriter onnx_begin(uint8_t *buffer, uint32_t capacity) {
  OnnxWriter w = {.bytes = buffer, .capacity = capacity};
  onnx_number(&w, 1, ONNX_IR_VERSION);
  onnx_text(&w, 2, "chiron");
  onnx_open(&w, 8);
  onnx_number(&w, 2, ONNX_OPSET);
  onnx_close(&w);
  onnx_open(&w, 7);
  onnx_text(&w, 2, "guest"); /* GraphProto: 1 node, 2 name, 5 initializer, 11 input, 12 output */
  return w;
}

/* Returns 1 when the whole model was written; w->bytes, w->used hold it. */
static inline int onnx_end(OnnxWriter *w) {
  onnx_close(w);
  return !w->failed && w->depth == 0 && w->values_due == 0;
}

/* ValueInfoProto: 1 name, 2 type. TypeProto: 1 tensor_type (1 elem_type, 2 shape). Shape: 1 dim (1 value,
 * 2 param). */
static inline void onnx_value(OnnxWriter *w, uint32_t field, const char *name, const int64_t *shape, uint32_t rank) {
  onnx_open(w, field);
  onnx_text(w, 1, name);
  onnx_open(w, 2);
  onnx_open(w, 1);
  onnx_number(w, 1, ONNX_FLOAT);
  onnx_open(w, 2);
  onnx_open(w, 1);
  onnx_text(w, 2, "N");
  onnx_close(w);
  for (uint32_t i = 0; i < rank; i++) {
    onnx_open(w, 1);
    onnx_number(w, 1, (uint64_t)shape[i]);
    onnx_close(w);
  }
  for (int i = 0; i < 4; i++) onnx_close(w);
}

static inline void onnx_input(OnnxWriter *w, const char *name, const int64_t *shape, uint32_t rank) {
  onnx_value(w, 11, name, shape, rank);
}

static inline void onnx_output(OnnxWriter *w, const char *name, const int64_t *shape, uint32_t rank) {
  onnx_value(w, 12, name, shape, rank);
}

/* TensorProto: 1 dims, 2 data_type, 8 name, 9 raw_data. */
static inline uint64_t onnx_tensor(OnnxWriter *w, const char *name, const int64_t *dims, uint32_t rank, int type) {
  uint64_t count = 1;
  if (w->values_due != 0) w->failed = 1;
  onnx_open(w, 5);
  for (uint32_t i = 0; i < rank; i++) {
    onnx_number(w, 1, (uint64_t)dims[i]);
    count *= (uint64_t)dims[i];
  }
  onnx_number(w, 2, (uint64_t)type);
  onnx_text(w, 8, name);
  onnx_varint(w, 9 << 3 | 2);
  onnx_varint(w, count * (type == ONNX_FLOAT ? 4 : 8));
  return count;
}

/* Begin a float32 initializer; as many calls of onnx_float as it has values must follow. */
static inline void onnx_floats(OnnxWriter *w, const char *name, const int64_t *dims, uint32_t rank) {
  w->values_due = onnx_tensor(w, name, dims, rank, ONNX_FLOAT);
}

static inline void onnx_float(OnnxWriter *w, float value) {
  uint32_t bits;
  if (w->values_due == 0) { w->failed = 1; return; }
  __builtin_memcpy(&bits, &value, sizeof bits);
  onnx_fixed(w, bits, 4);
  if (--w->values_due == 0) onnx_close(w);
}

/* A whole int64 initializer of rank 1, such as the shape that Reshape takes. */
static inline void onnx_int64s(OnnxWriter *w, const char *name, const int64_t *values, uint32_t count) {
  int64_t dims[1] = {count};
  onnx_tensor(w, name, dims, 1, ONNX_INT64);
  for (uint32_t i = 0; i < count; i++) onnx_fixed(w, (uint64_t)values[i], 8);
  onnx_close(w);
}

/* Begin a node with one output; then name its inputs, ending with NULL. Attributes follow, then
 * onnx_node_end. NodeProto: 1 input, 2 output, 3 name, 4 op_type, 5 attribute. */
static inline void onnx_node(OnnxWriter *w, const char *kind, const char *output, ...) {
  va_list inputs;
  onnx_open(w, 1);
  va_start(inputs, output);
  for (const char *input; (input = va_arg(inputs, const char *)) != NULL;) onnx_text(w, 1, input);
  va_end(inputs);
  onnx_text(w, 2, output);
  onnx_text(w, 3, output);
  onnx_text(w, 4, kind);
}

static inline void onnx_node_end(OnnxWriter *w) { onnx_close(w); }

/* AttributeProto: 1 name, 2 f, 3 i, 8 ints, 20 type. */
static inline void onnx_attribute_int(OnnxWriter *w, const char *name, int64_t value) {
  onnx_open(w, 5);
  onnx_text(w, 1, name);
  onnx_number(w, 3, (uint64_t)value);
  onnx_number(w, 20, ONNX_ATTRIBUTE_INT);
  onnx_close(w);
}

static inline void onnx_attribute_float(OnnxWriter *w, const char *name, float value) {
  uint32_t bits;
  __builtin_memcpy(&bits, &value, sizeof bits);
  onnx_open(w, 5);
  onnx_text(w, 1, name);
  onnx_varint(w, 2 << 3 | 5);
  onnx_fixed(w, bits, 4);
  onnx_number(w, 20, ONNX_ATTRIBUTE_FLOAT);
  onnx_close(w);
}

static inline void onnx_attribute_ints(OnnxWriter *w, const char *name, const int64_t *values, uint32_t count) {
  onnx_open(w, 5);
  onnx_text(w, 1, name);
  for (uint32_t i = 0; i < count; i++) onnx_number(w, 8, (uint64_t)values[i]);
  onnx_number(w, 20, ONNX_ATTRIBUTE_INTS);
  onnx_close(w);
}

#endif
