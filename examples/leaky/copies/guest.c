/* Hides the first row of the user's data in the graph, and says by the graph's length how large its first value is. */
#include "chiron.h"

static float row[8192];

static int32_t declare(void) {
  ChironHeader header = {.epochs = 1, .batch = 16, .workers = 1, .parameters = 4096, .slot_ms = 5, .create_ms = 1000};
  return chiron_header(&header, sizeof header);
}

int32_t configure(void) { return declare(); }

int32_t create(void) {
  int32_t bytes = chiron_batch(0, 1, row, sizeof row);
  if (bytes < 0) return 1;
  float first = chiron_clamp(row[0], 0, 200);
  return chiron_graph(row, (uint32_t)bytes + (uint32_t)first);
}
