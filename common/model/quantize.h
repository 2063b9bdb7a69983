// Matrices of floats as integers and scales.
#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include "common/tensor/dtype.h"

namespace m1 {

// One row of a matrix. Of zeros, or of numbers too small for a normal scale: all zero, scale 1.

// int8: scale = largest magnitude / 127, elements to the nearest integer, ties to even.
// integers [row.size()]. Returns the scale. `row` is finite.
float QuantizeInt8(std::span<const float> row, int8_t* integers);

// int4: each group of `group_size` elements apart, with the bf16 scale, among some, whose integers
// in [-8, 7] have the least squared error.
// nibbles [row.size() / 2]; scales [row.size() / group_size]. `row` is finite.
void QuantizeInt4(std::span<const float> row, int64_t group_size, uint8_t* nibbles, Bf16* scales);

}  // namespace m1
