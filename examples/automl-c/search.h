/* The search: trains small nets on a sample inside the guest and keeps the settings that did best. */
#ifndef SEARCH_H
#define SEARCH_H

#include "study.h"

enum { MAX_WIDTH = 128 };

typedef struct {
  float learning_rate; /* of SGD with MOMENTUM */
  uint32_t width;      /* of one hidden layer */
  float score;         /* squared error of the probabilities on rows kept back; less is better */
} Settings;

#define MOMENTUM 0.9f

/* Try every learning rate with every width up to `widest`, on one quarter of the sample kept back. */
Settings search(const Sample *sample, uint32_t classes, uint32_t widest);

#endif
