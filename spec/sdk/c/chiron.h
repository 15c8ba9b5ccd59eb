/* Chiron guest interface, version 1, for C and C++: see spec/guest.wit for what every call does.
 *
 * Freestanding: no libc is needed. `chiron build` targets wasm32 with bulk memory, where the compiler turns
 * copying and filling into instructions. A guest is one source file or several; all may include this. */
#ifndef CHIRON_H
#define CHIRON_H

#include <stddef.h>
#include <stdint.h>

#define CHIRON_IMPORT(name) __attribute__((import_module("chiron"), import_name(name)))
#define CHIRON_EXPORT(name) __attribute__((export_name(name)))

enum { CHIRON_OK = 0, CHIRON_REFUSED = -1, CHIRON_NO_ROOM = -2 };

typedef struct {
  uint32_t version; /* 1 */
  uint32_t rows;    /* size class of the number of training rows */
  uint32_t rank;    /* 1 to 3 */
  uint32_t shape[3]; /* of one row; 1 where the rank has none */
  uint32_t classes; /* number of targets */
  uint32_t reserved;
} ChironSchema;

typedef struct {
  uint32_t epochs;
  uint32_t batch;      /* rows a worker and step */
  uint32_t workers;
  uint32_t parameters; /* size class: at least the number of trainable values */
  uint32_t slot_ms;
  uint32_t create_ms;
} ChironHeader;

typedef struct {
  float mean, deviation, minimum, maximum;
} ChironSummary;

enum { CHIRON_ALL_VALUES = 0, CHIRON_COLUMN = 1, CHIRON_ROWS_PER_TARGET = 2, CHIRON_ROW_COUNTS = 3 };
enum { CHIRON_ROWS_TO_READ = 4 };
enum { CHIRON_SGD = 0, CHIRON_ADAMW = 1 };
enum { CHIRON_CONSTANT = 0, CHIRON_COSINE = 1 };

typedef struct {
  uint32_t version; /* 1 */
  uint32_t optimiser;
  float learning_rate;
  float momentum; /* of SGD */
  float weight_decay;
  uint32_t schedule;
  uint32_t warmup_steps;
  uint32_t reserved;
} ChironPlan;

/* The same with what trusted code does to rows: see plan in spec/guest.wit. */
typedef struct {
  ChironPlan plan;       /* its version is 2 */
  uint16_t crop_padding; /* zeros around a picture before a random part of its size is cut out, at most 64 */
  uint8_t flip;          /* 1: mirror every second one, at random */
  uint8_t channels;      /* how many means and deviations hold: 0, 1 for all values, or as many as channels */
  float mean[3];
  float deviation[3];
  uint32_t reserved;
} ChironAugmentedPlan;

#ifdef __cplusplus
extern "C" {
#define CHIRON_STATIC_ASSERT static_assert
#else
#define CHIRON_STATIC_ASSERT _Static_assert
#endif

CHIRON_STATIC_ASSERT(sizeof(ChironSchema) == 32 && sizeof(ChironHeader) == 24, "layout of spec/guest.wit");
CHIRON_STATIC_ASSERT(sizeof(ChironAugmentedPlan) == 64, "layout of spec/guest.wit");
CHIRON_STATIC_ASSERT(sizeof(ChironPlan) == 32 && sizeof(ChironSummary) == 16, "layout of spec/guest.wit");

/* In both phases. */
CHIRON_IMPORT("schema") int32_t chiron_schema(void *to, uint32_t capacity_bytes);
CHIRON_IMPORT("random") int32_t chiron_random(void *to, uint32_t length_bytes);
/* In configure. */
CHIRON_IMPORT("header") int32_t chiron_header(const void *header, uint32_t length_bytes);
CHIRON_IMPORT("log") int32_t chiron_log(const void *text, uint32_t length_bytes);
/* In create. */
CHIRON_IMPORT("statistics")
int32_t chiron_statistics(uint32_t kind, uint32_t index, void *to, uint32_t capacity_bytes);
CHIRON_IMPORT("batch") int32_t chiron_batch(uint32_t first, uint32_t count, void *to, uint32_t capacity_bytes);
CHIRON_IMPORT("targets")
int32_t chiron_targets(uint32_t first, uint32_t count, void *to, uint32_t capacity_bytes);
CHIRON_IMPORT("graph") int32_t chiron_graph(const void *bytes, uint32_t length_bytes);
CHIRON_IMPORT("plan") int32_t chiron_plan(const void *plan, uint32_t length_bytes);

CHIRON_IMPORT("keep") int32_t chiron_keep(const void *notes, uint32_t length_bytes);
/* In transforms. */
CHIRON_IMPORT("kept") int32_t chiron_kept(void *to, uint32_t capacity_bytes);
CHIRON_IMPORT("take") int32_t chiron_take(float *to, uint32_t capacity_bytes);
CHIRON_IMPORT("give") int32_t chiron_give(const float *from, uint32_t length_bytes);

/* What a guest must define. */
CHIRON_EXPORT("configure") int32_t configure(void);
CHIRON_EXPORT("create") int32_t create(void);
/* What it may define. */
CHIRON_EXPORT("transform_input") int32_t transform_input(void);
CHIRON_EXPORT("augment") int32_t augment(void);
CHIRON_EXPORT("transform_output") int32_t transform_output(void);

#ifdef __cplusplus
}
#endif

/* Small helpers. */

/* Length of a text. Without the attribute the compiler would see strlen here and call libc's. */
__attribute__((no_builtin)) static inline uint32_t chiron_text_bytes(const char *text) {
  uint32_t length = 0;
  while (text[length] != 0) length++;
  return length;
}

static inline int32_t chiron_log_text(const char *text) {
  return chiron_log(text, chiron_text_bytes(text));
}

static inline float chiron_clamp(float value, float low, float high) {
  return value < low ? low : value > high ? high : value;
}

/* Pseudo-random bytes, drawn from the host a block at a time. */
typedef struct {
  uint16_t block[2048];
  uint32_t used; /* of the block; set to the block's length to draw the first */
} ChironRandom;

#define CHIRON_RANDOM_BLOCK (sizeof(((ChironRandom *)0)->block) / sizeof(uint16_t))
#define CHIRON_RANDOM_INIT {.used = CHIRON_RANDOM_BLOCK}

/* One number of mean 0 and variance 1, nearly normal: the sum of four uniform ones (Irwin-Hall), whose tails
 * end at 3.46. Enough to initialise weights; not for noise that must be private. */
static inline float chiron_gaussian(ChironRandom *random) {
  if (random->used + 4 > CHIRON_RANDOM_BLOCK) {
    chiron_random(random->block, sizeof random->block);
    random->used = 0;
  }
  float sum = 0;
  for (int i = 0; i < 4; i++) sum += (float)random->block[random->used++];
  const float mean = 4 * 65535.0f / 2, inverse_deviation = 1 / (65536 * 0.57735027f); /* sqrt(4 / 12) */
  return (sum - mean) * inverse_deviation;
}

#endif
