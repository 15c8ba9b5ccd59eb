/* The little mathematics that guests need and WebAssembly has no instruction for. */
#ifndef CHIRON_MATH_H
#define CHIRON_MATH_H

#include <stdint.h>

/* e to the power of x, within 2e-7 of it relatively; x is taken to lie in -87 to 88. A polynomial on half an
 * octave, then the exponent is set in the bits. */
static inline float chiron_exp(float x) {
  x = x < -87 ? -87 : x > 88 ? 88 : x;
  float octaves = __builtin_floorf(x * 1.44269504f + 0.5f);
  float rest = (x - octaves * 0.693359375f) - octaves * -2.12194440e-4f; /* ln 2 in two parts */
  float power = 1 + rest * (1 + rest * (0.5f + rest * (1.66666667e-1f + rest * (4.16666667e-2f +
                rest * (8.33333333e-3f + rest * 1.38888889e-3f)))));
  uint32_t bits = (uint32_t)((int32_t)octaves + 127) << 23;
  float scale;
  __builtin_memcpy(&scale, &bits, sizeof scale);
  return power * scale;
}

/* Turn scores into probabilities, in place. */
static inline void chiron_softmax(float *scores, uint32_t count) {
  float most = scores[0], sum = 0;
  for (uint32_t i = 1; i < count; i++) most = scores[i] > most ? scores[i] : most;
  for (uint32_t i = 0; i < count; i++) sum += scores[i] = chiron_exp(scores[i] - most);
  for (uint32_t i = 0; i < count; i++) scores[i] /= sum;
}

#endif
