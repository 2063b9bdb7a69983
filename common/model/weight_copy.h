// Copies mapped tensors into memory of large pages, where they stand. Linux maps files in pages of
// 4 KiB: walking their tables costs decoding, which reads every weight once a step, a tenth of its
// speed (5 GB checkpoint, 2 threads, one stream: 70 % of the read bandwidth; copied 80 %).
#pragma once

#include <span>
#include <vector>

#include "absl/status/status.h"

#include "common/model/parallel_load.h"
#include "common/model/safetensors.h"
#include "common/model/tensor_table.h"
#include "common/tensor/tensor_view.h"

namespace m1 {

// Tensors that are mapped from one file.
struct FileViews {
  const SafetensorsFile* file = nullptr;
  std::vector<ConstTensorView> views;
};

// Each view with the file of `table` that it lies in; empty views are left out.
std::vector<FileViews> GroupByFile(const TensorTable& table,
                                   std::span<const ConstTensorView> views);

// Reads the pages of all views from their files into private memory and puts that at the addresses
// where the files were mapped; pages that neighbours share are read whole. The views stay valid,
// also while this runs. Takes as much memory as the views have, and no pages of the mappings; what
// the page cache holds of the files beside it is the system's to drop, and is dropped here with
// `drop_cache`. Files are read in order, each by several threads. After an error the views of some
// files are copied and the rest are as before.
// Errors: DataLoss naming the file (it cannot be read, ends early, is not the one that is mapped);
// Cancelled (`progress` returned false); ResourceExhausted (the system gives no memory).
absl::Status CopyPages(std::span<const FileViews> files, bool drop_cache,
                       const PrefetchProgress& progress);

}  // namespace m1
