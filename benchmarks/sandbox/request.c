// Answers a request of 3 KiB, and calls its host in a loop.
#include "guest.h"

enum { BYTES = 3072, CALLS = 200 };

static float values[BYTES / 4];

EXPORT("answer") int32_t answer(void) {
    int32_t got = input(0, values, BYTES);
    for (int32_t i = 0; i < got / 4; i++)
        values[i] = values[i] * 0.5f + 1.0f;
    return output(0, values, (uint32_t)got);
}

EXPORT("idle") int32_t idle(void) { return 0; }

EXPORT("call") int32_t call(void) {
    int32_t sum = 0;
    for (uint32_t i = 0; i < CALLS; i++)
        sum += nothing(i);
    return sum;
}
