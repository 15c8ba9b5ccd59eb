#include "search.h"

#include "chiron_math.h"

enum { MINIBATCH = 16, MAX_EPOCHS = 12 };
#define WORK 2e8f /* multiplications of the whole search: about half a second, a tenth of the fuel */

static const float rates[] = {0.01f, 0.03f, 0.1f};
static const uint32_t widths[] = {32, 64, MAX_WIDTH};

/* A layer's weights [outputs][inputs + 1] (the last is the bias), their gradient and their velocity. */
typedef struct {
  uint32_t inputs, outputs;
  float *weight, *gradient, *velocity;
} Layer;

enum { LARGEST = MAX_WIDTH * (MAX_FEATURES + 1) + MAX_CLASSES * (MAX_WIDTH + 1) };
static float weights[LARGEST], gradients[LARGEST], velocities[LARGEST];
static float hidden[MAX_WIDTH], hidden_error[MAX_WIDTH], outputs[MAX_CLASSES];

static Layer start(uint32_t offset, uint32_t inputs, uint32_t count, ChironRandom *random) {
  Layer layer = {inputs, count, weights + offset, gradients + offset, velocities + offset};
  float deviation = __builtin_sqrtf(2 / (float)inputs); /* He et al., ICCV 2015 */
  for (uint32_t i = 0; i < count * (inputs + 1); i++) {
    layer.weight[i] = i % (inputs + 1) == inputs ? 0 : deviation * chiron_gaussian(random);
    layer.gradient[i] = layer.velocity[i] = 0;
  }
  return layer;
}

static void forward(const Layer *layer, const float *from, float *to) {
  for (uint32_t o = 0; o < layer->outputs; o++) {
    const float *weight = layer->weight + o * (layer->inputs + 1);
    float sum = weight[layer->inputs];
    for (uint32_t i = 0; i < layer->inputs; i++) sum += weight[i] * from[i];
    to[o] = sum;
  }
}

/* Add to the gradient; where `back` is given, add to it what the error is in the layer's input. */
static void backward(Layer *layer, const float *from, const float *error, float *back) {
  for (uint32_t o = 0; o < layer->outputs; o++) {
    float *gradient = layer->gradient + o * (layer->inputs + 1);
    const float *weight = layer->weight + o * (layer->inputs + 1);
    for (uint32_t i = 0; i < layer->inputs; i++) gradient[i] += error[o] * from[i];
    gradient[layer->inputs] += error[o];
    for (uint32_t i = 0; back != NULL && i < layer->inputs; i++) back[i] += error[o] * weight[i];
  }
}

static void descend(Layer *layer, float rate) {
  for (uint32_t i = 0; i < layer->outputs * (layer->inputs + 1); i++) {
    layer->velocity[i] = MOMENTUM * layer->velocity[i] + layer->gradient[i] / MINIBATCH;
    layer->weight[i] -= rate * layer->velocity[i];
    layer->gradient[i] = 0;
  }
}

/* Leaves probabilities in `outputs`. */
static void predict(const Layer *first, const Layer *last, const float *row) {
  forward(first, row, hidden);
  for (uint32_t i = 0; i < first->outputs; i++) hidden[i] = hidden[i] > 0 ? hidden[i] : 0;
  forward(last, hidden, outputs);
  chiron_softmax(outputs, last->outputs);
}

static void learn(Layer *first, Layer *last, const float *row, int32_t target) {
  predict(first, last, row);
  outputs[target] -= 1; /* the gradient of cross-entropy in the scores */
  for (uint32_t i = 0; i < first->outputs; i++) hidden_error[i] = 0;
  backward(last, hidden, outputs, hidden_error);
  for (uint32_t i = 0; i < first->outputs; i++) hidden_error[i] = hidden[i] > 0 ? hidden_error[i] : 0;
  backward(first, row, hidden_error, NULL);
}

static int is_kept_back(uint32_t i) { return i % 4 == 3; }

static float squared_error(const Layer *first, const Layer *last, const Sample *sample) {
  float sum = 0, rows = 0;
  for (uint32_t i = 0; i < sample->rows; i++) {
    if (!is_kept_back(i)) continue;
    predict(first, last, sample->values[i]);
    outputs[sample->targets[i]] -= 1;
    for (uint32_t c = 0; c < last->outputs; c++) sum += outputs[c] * outputs[c];
    rows++;
  }
  return rows > 0 ? sum / rows : 0;
}

/* Train one candidate and return its score. Every candidate starts from the same seed's next numbers. */
static float attempt(const Sample *sample, uint32_t classes, const Settings *tried, uint32_t epochs) {
  ChironRandom random = CHIRON_RANDOM_INIT;
  Layer first = start(0, sample->features, tried->width, &random);
  Layer last = start(tried->width * (sample->features + 1), tried->width, classes, &random);
  uint32_t step = 0, taken = 0;
  for (uint32_t n = 0; n < epochs * sample->rows; n++) {
    step = (step + 389) % sample->rows; /* a prime: a fixed shuffle, unless it divides the rows */
    if (is_kept_back(step)) continue;
    learn(&first, &last, sample->values[step], sample->targets[step]);
    if (++taken % MINIBATCH) continue;
    descend(&first, tried->learning_rate);
    descend(&last, tried->learning_rate);
  }
  return squared_error(&first, &last, sample);
}

Settings search(const Sample *sample, uint32_t classes, uint32_t widest) {
  Settings best = {0};
  for (uint32_t w = 0; w < sizeof widths / sizeof *widths; w++)
    for (uint32_t r = 0; r < sizeof rates / sizeof *rates; r++) {
      Settings tried = {rates[r], widths[w] < widest ? widths[w] : widest, 0};
      float each = 3 * (float)(sample->rows * tried.width) * (float)(sample->features + classes);
      float share = WORK / (float)(sizeof rates / sizeof *rates * sizeof widths / sizeof *widths);
      tried.score = attempt(sample, classes, &tried, (uint32_t)chiron_clamp(share / each, 1, MAX_EPOCHS));
      if (best.width == 0 || tried.score < best.score) best = tried; /* a score that is NaN never wins */
    }
  return best;
}
