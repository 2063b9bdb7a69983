// What the kernels of the quantised form (backend.h) are given: rows as integers, and products with
// int8 or int4 weights. Pointers are device memory.
#pragma once

#include <cstdint>

#include "common/kernels/cuda/portable.h"
#include "common/kernels/cuda/product_args.h"
#include "common/kernels/cuda/quant_geometry.h"

namespace m1::cuda {

// How the integers of a row lie in memory. kEvenOdd: of each 32 elements the even ones, then the
// odd ones, which is how an int4 product takes them.
enum class QuantOrder : int32_t { kPlain, kEvenOdd };

// A block for each row. x begins at a multiple of 16 bytes, k is a multiple of 16 (kEvenOdd: of
// 32).
template <typename Act>
struct QuantizeRowsArgs {
  const Act* x = nullptr;    // [rows, k], fp32 or bf16
  int8_t* values = nullptr;  // [rows, k]
  float* scales = nullptr;   // [rows]
  int32_t k = 0;
  QuantOrder order = QuantOrder::kPlain;

  constexpr bool operator==(const QuantizeRowsArgs&) const = default;
};

inline constexpr int kQuantizeThreads = 256;
inline constexpr int kQuantizeWarps = kQuantizeThreads / kWarpLanes;

constexpr LaunchGrid QuantizeRowsGrid(int rows) {
  return {{rows, 1, 1}, kQuantizeThreads, kQuantizeWarps * static_cast<int>(sizeof(uint32_t))};
}

// What `values` and then `scales` take together, in bytes.
constexpr int64_t QuantRowsBytes(int64_t rows, int64_t k) {
  return rows * (k + static_cast<int64_t>(sizeof(float)));
}

// Integers [n, k] with scales as MatrixView has them. int8: scales fp32 [n]; int4: values [n, k /
// 2], scales bf16 [n, k / group_size].
struct QuantMatrix {
  const void* values = nullptr;
  const void* scales = nullptr;

  constexpr bool operator==(const QuantMatrix&) const = default;
};

// Rows [row_begin, row_begin + num_rows) of the list of rows meet these weights; as ProductGroup.
struct QuantGroup {
  QuantMatrix w{};
  QuantMatrix up{};     // gated only
  void* out = nullptr;  // [.., n] of the launch's output type
  int32_t n = 0;
  int32_t row_begin = 0;
  int32_t num_rows = 0;
  ProductEpilogue epilogue = ProductEpilogue::kNone;

  constexpr bool operator==(const QuantGroup&) const = default;
};

// Handed over by value. Every matrix of values, x and int4 scales begin at a multiple of 16 bytes.
struct QuantProductArgs {
  // Rows as LaunchQuantizeRows leaves them, kEvenOdd for int4. Entry i of the list of rows is row
  // gather[i] of x, or row i without a list.
  const int8_t* x = nullptr;        // [.., k]
  const float* x_scales = nullptr;  // [..]
  const int32_t* gather = nullptr;
  // Its result goes to row scatter[i] of out, or row i.
  const int32_t* scatter = nullptr;
  int32_t k = 0;
  int32_t group_size = 0;  // 0: int8; 32 or 64: int4, elements that share a scale
  int32_t num_groups = 0;
  QuantGroup groups[kMaxProductGroups];

  // Groups beyond num_groups are nobody's.
  constexpr bool operator==(const QuantProductArgs& other) const;
};

static_assert(sizeof(QuantProductArgs) <= 4096);

constexpr bool QuantProductArgs::operator==(const QuantProductArgs& other) const {
  return x == other.x && x_scales == other.x_scales && gather == other.gather &&
         scatter == other.scatter && k == other.k && group_size == other.group_size &&
         EqualGroups(*this, other);
}

// kMaxQuantizedK of operands.h, which the tests compare.
inline constexpr int kMaxQuantK = 1 << 17;

// Rows of weights are copied in pieces of so many bytes: an int8 row must be made of such.
inline constexpr int kQuantRowBytes = 16;
constexpr bool TakesQuantK(int group_size, int k) {
  if (group_size != 0 && group_size != 32 && group_size != 64) return false;
  return k >= 0 && k <= kMaxQuantK && k % (group_size == 0 ? kQuantRowBytes : group_size) == 0;
}

constexpr bool TakesQuantRows(QuantOrder order, int k) {
  return TakesQuantK(order == QuantOrder::kPlain ? 0 : 32, k);
}
constexpr bool TakesQuantArgs(const QuantProductArgs& args) {
  return args.num_groups <= kMaxProductGroups && TakesQuantK(args.group_size, args.k);
}

// Calls visit.operator()<Shape>() with the shape that suits the format and the rows. Only where
// TakesQuantArgs says yes.
template <int group, typename Visit>
constexpr auto ForQuantLinearOf(const QuantProductArgs& args, Visit visit) {
  return ForShape<QuantLinearOne<group>, QuantLinearFew<group>, QuantLinearMany<group>>(args,
                                                                                        visit);
}
template <int group, typename Visit>
constexpr auto ForQuantGatedOf(const QuantProductArgs& args, Visit visit) {
  return ForShape<QuantGatedOne<group>, QuantGatedFew<group>, QuantGatedMany<group>>(args, visit);
}
template <typename Visit>
constexpr auto ForQuantLinear(const QuantProductArgs& args, Visit visit) {
  if (args.group_size == 0) return ForQuantLinearOf<0>(args, visit);
  return args.group_size == 32 ? ForQuantLinearOf<32>(args, visit)
                               : ForQuantLinearOf<64>(args, visit);
}
template <typename Visit>
constexpr auto ForQuantGated(const QuantProductArgs& args, Visit visit) {
  if (args.group_size == 0) return ForQuantGatedOf<0>(args, visit);
  return args.group_size == 32 ? ForQuantGatedOf<32>(args, visit)
                               : ForQuantGatedOf<64>(args, visit);
}

}  // namespace m1::cuda
