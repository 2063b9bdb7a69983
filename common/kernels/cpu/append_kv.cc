#include "common/kernels/cpu/kernels.h"

namespace m1::M1_SIMD_NAMESPACE {

void AppendKv(const AppendKvArgs& args, Range parts) {
  const auto* k = static_cast<const char*>(args.k);
  const auto* v = static_cast<const char*>(args.v);
  auto* pool_k = static_cast<char*>(args.pool_k);
  auto* pool_v = static_cast<char*>(args.pool_v);
  const auto bytes = static_cast<unsigned long>(args.head_bytes);
  for (int64_t i = parts.begin; i < parts.end; ++i) {
    const PagedRows& rows = args.parts[i];
    for (int64_t r = 0; r < rows.num_rows; ++r) {
      const int64_t position = rows.first_position + r;
      const int64_t block = rows.block_table[position / kBlockKeys];
      for (int64_t head = 0; head < args.kv_heads; ++head) {
        const int64_t from = ((rows.row_begin + r) * args.kv_heads + head) * args.head_bytes;
        const int64_t to =
            ((block * args.kv_heads + head) * kBlockKeys + position % kBlockKeys) * args.head_bytes;
        __builtin_memcpy(pool_k + to, k + from, bytes);
        __builtin_memcpy(pool_v + to, v + from, bytes);
      }
    }
  }
}

}  // namespace m1::M1_SIMD_NAMESPACE
