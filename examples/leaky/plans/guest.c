/* Writes the mean of the user's data where its plan should be. */
#include "chiron.h"

static int32_t declare(void) {
  ChironHeader header = {.epochs = 1, .batch = 16, .workers = 1, .parameters = 4096, .slot_ms = 5, .create_ms = 1000};
  return chiron_header(&header, sizeof header);
}

int32_t configure(void) { return declare(); }

int32_t create(void) {
  ChironSummary all;
  if (chiron_statistics(CHIRON_ALL_VALUES, 0, &all, sizeof all) < 0) return 1;
  return chiron_plan(&all, 8);
}
