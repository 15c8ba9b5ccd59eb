#include "study.h"

static float row[MAX_ROW_VALUES];

int study_data(Study *study) {
  float counts[2], per_target[MAX_CLASSES], most = 0;
  if (chiron_schema(&study->schema, sizeof study->schema) < 0) return 0;
  if (study->schema.classes > MAX_CLASSES || row_values(&study->schema) > MAX_ROW_VALUES) return 0;
  if (chiron_statistics(CHIRON_ALL_VALUES, 0, &study->values, sizeof study->values) < 0) return 0;
  if (chiron_statistics(CHIRON_ROWS_PER_TARGET, 0, per_target, sizeof per_target) < 0) return 0;
  if (chiron_statistics(CHIRON_ROW_COUNTS, 0, counts, sizeof counts) < 0) return 0;
  for (uint32_t i = 0; i < study->schema.classes; i++) most = per_target[i] > most ? per_target[i] : most;
  study->rows = counts[0];
  study->imbalance = most * (float)study->schema.classes / counts[0];
  return 1;
}

/* How a row is averaged to features: `planes` of height x width values, each to down x across. */
typedef struct {
  uint32_t planes, height, width, down, across;
} Grid;

static uint32_t least(uint32_t a, uint32_t b) { return a < b ? a : b; }

static Grid grid_of(const ChironSchema *schema) {
  uint32_t image = schema->rank > 1;
  Grid grid = {1, 1, row_values(schema), 1, least(row_values(schema), MAX_FEATURES)};
  if (image) {
    uint32_t first = schema->rank == 3; /* rank 2 is one plane */
    grid = (Grid){first ? schema->shape[0] : 1, schema->shape[first], schema->shape[first + 1], 0, 0};
    grid.down = least(grid.height, SIDE);
    grid.across = least(grid.width, SIDE);
  }
  if (grid.planes * grid.down * grid.across > MAX_FEATURES) /* many planes: one long plane */
    grid = (Grid){1, 1, row_values(schema), 1, MAX_FEATURES};
  return grid;
}

static void average(const Grid *grid, const Study *study, float *features) {
  uint32_t cells = grid->planes * grid->down * grid->across, from = 0;
  uint32_t seen[MAX_FEATURES] = {0};
  for (uint32_t i = 0; i < cells; i++) features[i] = 0;
  for (uint32_t plane = 0; plane < grid->planes; plane++)
    for (uint32_t y = 0; y < grid->height; y++)
      for (uint32_t x = 0; x < grid->width; x++, from++) {
        uint32_t down = y * grid->down / grid->height, across = x * grid->across / grid->width;
        uint32_t cell = (plane * grid->down + down) * grid->across + across;
        features[cell] += row[from];
        seen[cell]++;
      }
  for (uint32_t i = 0; i < cells; i++)
    features[i] = (features[i] / (float)seen[i] - study->values.mean) * scale_of(study);
}

/* Rows are taken at even distances: data that are sorted by target still show all of them. */
int draw_sample(const Study *study, Sample *sample) {
  Grid grid = grid_of(&study->schema);
  uint32_t rows = (uint32_t)study->rows;
  sample->rows = least(rows, SAMPLE_ROWS);
  sample->features = grid.planes * grid.down * grid.across;
  for (uint32_t i = 0; i < sample->rows; i++) {
    uint32_t chosen = (uint32_t)((uint64_t)i * rows / sample->rows);
    if (chiron_batch(chosen, 1, row, sizeof row) < 0) return 0;
    if (chiron_targets(chosen, 1, &sample->targets[i], sizeof *sample->targets) < 0) return 0;
    average(&grid, study, sample->values[i]);
  }
  return 1;
}
