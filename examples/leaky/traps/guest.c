/* Traps where the user's first training row has target 0: what ends a guest must show nowhere. */
#include "chiron.h"

static int32_t target;

static int32_t declare(void) {
  ChironHeader header = {.epochs = 1, .batch = 16, .workers = 1, .parameters = 4096, .slot_ms = 5, .create_ms = 1000};
  return chiron_header(&header, sizeof header);
}

int32_t configure(void) { return declare(); }

int32_t create(void) {
  if (chiron_targets(1, 1, &target, sizeof target) < 0) return 1;
  if (target == 0) __builtin_trap();
  return 0;
}
