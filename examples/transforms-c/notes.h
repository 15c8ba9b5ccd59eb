/* What create() keeps for the transforms, which run in instances of their own. */
#ifndef NOTES_H
#define NOTES_H

#include "chiron.h"

enum { MAX_VALUES = 4096, MAX_CLASSES = 256 };

typedef struct {
  uint32_t values, classes;
  float mean[MAX_VALUES], scale[MAX_VALUES]; /* of each value of a row */
  float prior[MAX_CLASSES];                  /* share of each target among the training rows */
} Notes;

_Static_assert(sizeof(Notes) <= 65536, "the most that can be kept");

#endif
