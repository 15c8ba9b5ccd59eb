#include "chiron.h"
#include "notes.h"

static Notes notes;
static float rows[1 << 20]; /* the most that one run is given */

/* Take all rows of this run, with the notes of create(); the number of values, or less than 0. */
static int32_t begin(void) {
  if (chiron_kept(&notes, sizeof notes) != sizeof notes) return -1;
  int32_t bytes = chiron_take(rows, sizeof rows);
  return bytes < 0 ? bytes : bytes / (int32_t)sizeof *rows;
}

static int32_t end(int32_t count) { return chiron_give(rows, (uint32_t)count * sizeof *rows); }

/* Mean 0 and deviation 1 for each value of a row, as in the training rows. */
int32_t transform_input(void) {
  int32_t count = begin();
  if (count < 0) return 1;
  for (int32_t from = 0; from < count; from += (int32_t)notes.values)
    for (uint32_t i = 0; i < notes.values; i++)
      rows[from + (int32_t)i] = (rows[from + (int32_t)i] - notes.mean[i]) * notes.scale[i];
  return end(count);
}

/* A little noise on what transform_input gave, other noise at each step. */
int32_t augment(void) {
  static ChironRandom noise = CHIRON_RANDOM_INIT;
  int32_t count = begin();
  if (count < 0) return 1;
  for (int32_t i = 0; i < count; i++) rows[i] += 0.1f * chiron_gaussian(&noise);
  return end(count);
}

/* Scores as they were if all targets were as frequent: divided by the training rows' shares.
 * Source: Saerens et al., "Adjusting the outputs of a classifier to new a priori probabilities", Neural
 * Computation 2002, equation 2.4. */
int32_t transform_output(void) {
  int32_t count = begin();
  if (count < 0) return 1;
  for (int32_t from = 0; from < count; from += (int32_t)notes.classes) {
    float sum = 0;
    for (uint32_t i = 0; i < notes.classes; i++) sum += rows[from + (int32_t)i] /= notes.prior[i];
    for (uint32_t i = 0; i < notes.classes; i++) rows[from + (int32_t)i] /= sum;
  }
  return end(count);
}
