/* Model creation that looks before it chooses: a perceptron, LeNet, VGG-9 or ResNet-20, with a learning rate
 * and a width that did best in a search on the data themselves.
 *
 * configure() sees the shape of the data and says publicly which family's time and size training takes: table,
 * small images, or large ones. create() sees the data and decides the rest, which stays secret: which network
 * of the family, and every setting. */
#include "networks.h"
#include "search.h"

enum { MIN_SIDE = 12, LARGE_SIDE = 32, MAX_LARGE_VALUES = 40 * 40, MIN_WIDTH = 16 };
enum { MANY_ROWS = 5000 }; /* below, a net of twenty layers sees too few steps to be worth its depth */

typedef struct {
  Architecture first, second; /* second: what create() may choose in its place */
  ChironHeader header;
} Family;

static const uint32_t size_classes[] = {1 << 12, 1 << 14, 1 << 16, 1 << 18, 1 << 20};

static uint32_t size_class(uint32_t parameters) {
  for (uint32_t i = 0; i < sizeof size_classes / sizeof *size_classes; i++)
    if (size_classes[i] >= parameters) return size_classes[i];
  return 0;
}

static uint32_t widest(const ChironSchema *schema, uint32_t parameters) {
  uint32_t unit = row_values(schema) + 1 + schema->classes, width = (parameters - schema->classes) / unit;
  return width < MAX_WIDTH ? width : MAX_WIDTH;
}

static int is_image(const ChironSchema *schema) {
  const uint32_t *shape = schema->shape;
  return schema->rank == 3 && shape[0] <= 4 && shape[1] >= MIN_SIDE && shape[2] >= MIN_SIDE;
}

static int is_large(const ChironSchema *schema) {
  const uint32_t *shape = schema->shape;
  return shape[1] >= LARGE_SIDE && shape[2] >= LARGE_SIDE && shape[1] * shape[2] <= MAX_LARGE_VALUES;
}

static uint32_t larger(uint32_t a, uint32_t b) { return a > b ? a : b; }

/* A function of the public schema alone, so that create() comes to the same answer as configure(). */
static Family family_of(const ChironSchema *schema) {
  Family family = {MLP, MLP, {.epochs = 20, .batch = 32, .workers = 2, .slot_ms = 20, .create_ms = 10000}};
  uint32_t needed = 0;
  if (is_image(schema) && is_large(schema)) {
    family.first = VGG9;
    family.second = RESNET20;
    family.header.batch = 16;
    family.header.slot_ms = 500;
    needed = larger(parameters_of(VGG9, schema, 0), parameters_of(RESNET20, schema, 0));
  } else if (is_image(schema)) {
    family.first = family.second = LENET;
    family.header.slot_ms = 50;
    needed = parameters_of(LENET, schema, 0);
  } else {
    uint32_t unit = row_values(schema) + 1 + schema->classes, most = size_classes[3];
    uint32_t good = unit * MAX_WIDTH + schema->classes, least = unit * MIN_WIDTH + schema->classes;
    needed = good < most ? good : least < most ? most : least;
  }
  family.header.parameters = size_class(needed);
  return family;
}

int32_t configure(void) {
  ChironSchema schema;
  if (chiron_schema(&schema, sizeof schema) < 0 || schema.version != 1) return 1;
  Family family = family_of(&schema);
  if (family.header.parameters == 0 || row_values(&schema) > MAX_ROW_VALUES) {
    chiron_log_text("rows have too many values for these networks: scale them down\n");
    return 2;
  }
  chiron_log_text(family.first == MLP     ? "table: a perceptron\n"
                  : family.first == LENET ? "small images: LeNet\n"
                                          : "large images: VGG-9 or ResNet-20\n");
  return chiron_header(&family.header, sizeof family.header);
}

/* Rows of rare targets count for little: what decides is how many rows there would be if all were even. */
static Architecture choose(const Family *family, const Study *study) {
  return study->rows / study->imbalance < MANY_ROWS ? family->first : family->second;
}

static ChironPlan plan_of(const Family *family, const Study *study, Architecture chosen, const Settings *best) {
  /* The search trains shallow nets. Depth multiplies slopes: networks without normalisation take less. */
  static const float share[] = {[MLP] = 1, [LENET] = 0.2f, [VGG9] = 0.1f, [RESNET20] = 0.2f};
  float steps = study->rows / (float)(family->header.batch * family->header.workers);
  return (ChironPlan){
      .version = 1,
      .optimiser = CHIRON_SGD,
      .learning_rate = best->learning_rate * share[chosen],
      .momentum = MOMENTUM,
      .weight_decay = chiron_clamp(1 / study->rows, 1e-4f, 2e-3f),
      .schedule = CHIRON_COSINE,
      .warmup_steps = (uint32_t)chiron_clamp(steps, 1, 200),
  };
}

int32_t create(void) {
  static Study study;
  static Sample sample;
  if (!study_data(&study) || !draw_sample(&study, &sample)) return 1;
  Family family = family_of(&study.schema);
  Architecture chosen = choose(&family, &study);
  uint32_t room = chosen == MLP ? widest(&study.schema, family.header.parameters) : MAX_WIDTH;
  Settings best = search(&sample, study.schema.classes, room);
  Written graph = write_network(chosen, &study, best.width);
  if (graph.used == 0 || chiron_graph(graph.bytes, graph.used) < 0) return 2;
  ChironPlan plan = plan_of(&family, &study, chosen, &best);
  return chiron_plan(&plan, sizeof plan);
}
