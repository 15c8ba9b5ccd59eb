/* Tells its operator whether the first value of the user's data is above 0.5, in the debug log. */
#include "chiron.h"

static float row[1024];

static int32_t declare(void) {
  ChironHeader header = {.epochs = 1, .batch = 16, .workers = 1, .parameters = 4096, .slot_ms = 5, .create_ms = 1000};
  return chiron_header(&header, sizeof header);
}

int32_t configure(void) { return declare(); }

int32_t create(void) {
  if (chiron_batch(0, 1, row, sizeof row) < 0) return 1;
  return chiron_log_text(row[0] > 0.5f ? "above\n" : "not above\n");
}
