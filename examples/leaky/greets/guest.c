/* Writes the operator's know-how into its own debug log, which nobody else may read or measure. */
#include "chiron.h"

static int32_t declare(void) {
  ChironHeader header = {.epochs = 1, .batch = 16, .workers = 1, .parameters = 4096, .slot_ms = 5, .create_ms = 1000};
  return chiron_header(&header, sizeof header);
}

int32_t configure(void) {
  chiron_log_text("the trick is a learning rate of 0.003 and a warm-up of 200 steps\n");
  return declare();
}

int32_t create(void) {
  ChironSummary all;
  return chiron_statistics(CHIRON_ALL_VALUES, 0, &all, sizeof all) < 0;
}
