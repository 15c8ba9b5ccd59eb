// What both guests of the benchmark import and export.
#include <stdint.h>

#define IMPORT(name) __attribute__((import_module("chiron"), import_name(name)))
#define EXPORT(name) __attribute__((export_name(name)))

// Write up to `bytes` of input at offset `from` to `to`; returns how many.
IMPORT("input") int32_t input(uint32_t from, void *to, uint32_t bytes);
// Take `bytes` of output for offset `at`.
IMPORT("output") int32_t output(uint32_t at, const void *from, uint32_t bytes);
// Do nothing.
IMPORT("nothing") int32_t nothing(uint32_t argument);
