/* What create() finds out about the data before it tries anything, and a sample of rows to try things on. */
#ifndef STUDY_H
#define STUDY_H

#include "chiron.h"

enum { MAX_CLASSES = 256, MAX_ROW_VALUES = 1 << 16, MAX_FEATURES = 256, SAMPLE_ROWS = 512, SIDE = 8 };

typedef struct {
  ChironSchema schema;
  ChironSummary values; /* of all values together */
  float rows;           /* exact number of training rows */
  float imbalance;      /* rows of the commonest target over the mean of all: 1 when they are even */
} Study;

/* Rows of at most MAX_FEATURES normalised features: images averaged to 8x8 a channel, tables as they are. */
typedef struct {
  uint32_t rows, features;
  float values[SAMPLE_ROWS][MAX_FEATURES];
  int32_t targets[SAMPLE_ROWS];
} Sample;

static inline uint32_t row_values(const ChironSchema *schema) {
  return schema->shape[0] * schema->shape[1] * schema->shape[2];
}

static inline float scale_of(const Study *study) {
  return study->values.deviation > 0 ? 1 / study->values.deviation : 1;
}

/* Both return 0 when the host refuses what they ask for. */
int study_data(Study *study);
int draw_sample(const Study *study, Sample *sample);

#endif
