/* The four networks. Each writes one graph and leaves it in `Written`. */
#ifndef NETWORKS_H
#define NETWORKS_H

#include "study.h"

typedef enum { MLP, LENET, VGG9, RESNET20 } Architecture;

typedef struct {
  const uint8_t *bytes;
  uint32_t used; /* 0 when the network did not fit the buffer */
} Written;

/* Trainable values of a network on rows of this shape; `width` is the hidden layer's of the MLP. */
uint32_t parameters_of(Architecture architecture, const ChironSchema *schema, uint32_t width);

Written write_network(Architecture architecture, const Study *study, uint32_t width);

#endif
