#include "networks.h"

#include "chiron_onnx.h"

static uint8_t model[(1 << 22) + (1 << 16)]; /* 2^20 float32 values, and room for names */
static ChironRandom noise = CHIRON_RANDOM_INIT;

/* A network in the making: one row has `channels` planes of height x width at the tensor named `head`. With
 * no writer it only counts trainable values. */
typedef struct {
  OnnxWriter *w;
  uint32_t channels, height, width, parameters, made;
  char head[12];
} Net;

static void set_name(char *to, const char *kind, uint32_t number) {
  while (*kind != 0) *to++ = *kind++;
  for (uint32_t unit = 100; unit > 0; unit /= 10) *to++ = (char)('0' + number / unit % 10);
  *to = 0;
}

/* Weights of deviation gain * sqrt(2 / inputs) (He et al., ICCV 2015) and a bias of zeros. */
static void values(Net *net, const int64_t *dims, uint32_t rank, uint32_t inputs, uint32_t outputs, float gain) {
  char weight[12], bias[12];
  net->parameters += (inputs + 1) * outputs;
  if (net->w == NULL) return;
  set_name(weight, "weight", net->made);
  set_name(bias, "bias", net->made);
  float deviation = gain * __builtin_sqrtf(2 / (float)inputs);
  onnx_floats(net->w, weight, dims, rank);
  for (uint32_t i = 0; i < inputs * outputs; i++) onnx_float(net->w, deviation * chiron_gaussian(&noise));
  onnx_floats(net->w, bias, (int64_t[]){outputs}, 1);
  for (uint32_t i = 0; i < outputs; i++) onnx_float(net->w, 0);
}

/* Begin a node on the head; its output becomes the head. */
static void begin(Net *net, const char *operator, const char *second, const char *third) {
  char output[12];
  set_name(output, "t", net->made++);
  onnx_node(net->w, operator, output, net->head, second, third, NULL);
  __builtin_memcpy(net->head, output, sizeof output);
}

static void plain(Net *net, const char *operator, const char *second) {
  if (net->w == NULL) return;
  begin(net, operator, second, NULL);
  onnx_node_end(net->w);
}

static void conv(Net *net, uint32_t filters, uint32_t kernel, uint32_t stride, uint32_t padding, float gain) {
  values(net, (int64_t[]){filters, net->channels, kernel, kernel}, 4, net->channels * kernel * kernel, filters, gain);
  net->channels = filters;
  net->height = (net->height + 2 * padding - kernel) / stride + 1;
  net->width = (net->width + 2 * padding - kernel) / stride + 1;
  if (net->w == NULL) return;
  char weight[12], bias[12];
  set_name(weight, "weight", net->made);
  set_name(bias, "bias", net->made);
  begin(net, "Conv", weight, bias);
  onnx_attribute_ints(net->w, "kernel_shape", (int64_t[]){kernel, kernel}, 2);
  onnx_attribute_ints(net->w, "strides", (int64_t[]){stride, stride}, 2);
  onnx_attribute_ints(net->w, "pads", (int64_t[]){padding, padding, padding, padding}, 4);
  onnx_node_end(net->w);
}

static void halve(Net *net) {
  net->height /= 2;
  net->width /= 2;
  if (net->w == NULL) return;
  begin(net, "MaxPool", NULL, NULL);
  onnx_attribute_ints(net->w, "kernel_shape", (int64_t[]){2, 2}, 2);
  onnx_attribute_ints(net->w, "strides", (int64_t[]){2, 2}, 2);
  onnx_node_end(net->w);
}

static void flatten(Net *net) {
  net->channels *= net->height * net->width;
  net->height = net->width = 1;
  if (net->w == NULL) return;
  begin(net, "Flatten", NULL, NULL);
  onnx_attribute_int(net->w, "axis", 1);
  onnx_node_end(net->w);
}

static void dense(Net *net, uint32_t outputs, const char *name) {
  float gain = name == NULL ? 1 : 0.1f; /* the last layer starts small: every target as likely as any other */
  values(net, (int64_t[]){net->channels, outputs}, 2, net->channels, outputs, gain);
  net->channels = outputs;
  if (net->w == NULL) return;
  char weight[12], bias[12];
  set_name(weight, "weight", net->made);
  set_name(bias, "bias", net->made);
  if (name == NULL) {
    begin(net, "Gemm", weight, bias);
  } else {
    onnx_node(net->w, "Gemm", name, net->head, weight, bias, NULL);
  }
  onnx_node_end(net->w);
}

static void conv_relu(Net *net, uint32_t filters, uint32_t kernel, uint32_t padding) {
  conv(net, filters, kernel, 1, padding, 1);
  plain(net, "Relu", NULL);
}

static void dense_relu(Net *net, uint32_t outputs) {
  dense(net, outputs, NULL);
  plain(net, "Relu", NULL);
}

/* LeCun et al., Proc. IEEE 1998, with ReLU and maximum pooling. */
static void lenet(Net *net) {
  conv_relu(net, 6, 5, 2);
  halve(net);
  conv_relu(net, 16, 5, 0);
  halve(net);
  flatten(net);
  dense_relu(net, 120);
  dense_relu(net, 84);
}

/* Simonyan and Zisserman, ICLR 2015, with nine layers: six of convolution in three pairs, three dense. */
static void vgg9(Net *net) {
  for (uint32_t filters = 32; filters <= 128; filters *= 2) {
    conv_relu(net, filters, 3, 1);
    conv_relu(net, filters, 3, 1);
    halve(net);
  }
  flatten(net);
  dense_relu(net, 128);
  dense_relu(net, 128);
}

/* One residual block: two convolutions beside a shortcut, which is a 1x1 convolution where shapes change. */
static void residual(Net *net, uint32_t filters, uint32_t stride) {
  Net start = *net;
  conv(net, filters, 3, stride, 1, 1 / 3.0f);
  plain(net, "Relu", NULL);
  conv(net, filters, 3, 1, 1, 0);
  Net shortcut = *net; /* goes on counting and writing from here, but on the block's input */
  shortcut.channels = start.channels;
  shortcut.height = start.height;
  shortcut.width = start.width;
  __builtin_memcpy(shortcut.head, start.head, sizeof start.head);
  if (start.channels != filters) conv(&shortcut, filters, 1, stride, 0, 1);
  net->parameters = shortcut.parameters;
  net->made = shortcut.made;
  plain(net, "Add", shortcut.head);
  plain(net, "Relu", NULL);
}

/* He et al., CVPR 2016, section 4.2, n = 3. In place of BatchNorm, which is not admitted: Zhang et al., "Fixup
 * Initialization", ICLR 2019: the last convolution of each of the L = 9 branches starts at zero, the other is
 * scaled by L^(-1/2). */
static void resnet20(Net *net) {
  conv_relu(net, 16, 3, 1);
  for (uint32_t filters = 16; filters <= 64; filters *= 2)
    for (uint32_t block = 0; block < 3; block++) residual(net, filters, filters > 16 && block == 0 ? 2 : 1);
  plain(net, "GlobalAveragePool", NULL);
  net->height = net->width = 1;
  flatten(net);
}

static void network(Net *net, Architecture architecture, const ChironSchema *schema, uint32_t width) {
  switch (architecture) {
    case LENET: lenet(net); break;
    case VGG9: vgg9(net); break;
    case RESNET20: resnet20(net); break;
    case MLP:
      if (schema->rank > 1) flatten(net);
      net->channels = row_values(schema);
      dense_relu(net, width);
  }
  dense(net, schema->classes, "logits");
}

static Net empty(const ChironSchema *schema, OnnxWriter *w) {
  Net net = {.w = w, .channels = schema->shape[0], .height = schema->shape[1], .width = schema->shape[2]};
  net.head[0] = 'x';
  return net;
}

uint32_t parameters_of(Architecture architecture, const ChironSchema *schema, uint32_t width) {
  Net net = empty(schema, NULL);
  network(&net, architecture, schema, width);
  return net.parameters;
}

Written write_network(Architecture architecture, const Study *study, uint32_t width) {
  OnnxWriter w = onnx_begin(model, sizeof model);
  Net net = empty(&study->schema, &w);
  int64_t shape[3] = {net.channels, net.height, net.width}, classes = study->schema.classes;
  onnx_input(&w, "x", shape, study->schema.rank);
  onnx_output(&w, "logits", &classes, 1);
  onnx_floats(&w, "const.mean", NULL, 0);
  onnx_float(&w, study->values.mean);
  onnx_floats(&w, "const.scale", NULL, 0);
  onnx_float(&w, scale_of(study));
  plain(&net, "Sub", "const.mean");
  plain(&net, "Mul", "const.scale");
  network(&net, architecture, &study->schema, width);
  return (Written){w.bytes, onnx_end(&w) ? w.used : 0};
}
