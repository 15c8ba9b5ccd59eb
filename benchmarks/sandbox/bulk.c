// Passes 10 MiB through, and normalises 60,000 images of 28 x 28 float32 in parts.
#include "guest.h"

enum { BYTES = 10 << 20, PIXELS = 28 * 28, IMAGES = 60000, PART = 250 };

static float values[BYTES / 4];
static float parameters[2]; // mean, 1 / standard deviation

EXPORT("pass") int32_t pass(void) {
    input(0, values, BYTES);
    return output(0, values, BYTES);
}

EXPORT("transform") int32_t transform(void) {
    const uint32_t count = PART * PIXELS, bytes = 4 * count;
    input(0, parameters, 8);
    const float mean = parameters[0], scale = parameters[1];
    for (uint32_t part = 0; part < IMAGES / PART; part++) {
        input(8 + part * bytes, values, bytes);
        for (uint32_t i = 0; i < count; i++)
            values[i] = (values[i] - mean) * scale;
        output(part * bytes, values, bytes);
    }
    return 0;
}
