// Checkpoints with wider heads that mean the same.
#pragma once

#include <string>

namespace m1 {

// Copies a bf16 checkpoint of the original format with heads four times as wide: GPUs take no
// narrow ones. New elements of q, k, v and gates are 0. What depends on the width is undone by
// powers of two, so that no weight is rounded: q_proj twice as large (the scores' scale halves),
// the norm over lightning outputs half as large (their mean square is a quarter, which makes its
// epsilon four times as large, too). Aborts on files that are not there.
void WriteWithWideHeads(const std::string& model_dir, const std::string& out_dir);

}  // namespace m1
