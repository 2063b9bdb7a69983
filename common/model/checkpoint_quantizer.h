// A checkpoint with integers for matrices, made out of one with floats.
#pragma once

#include <cstdint>
#include <functional>
#include <string>

#include "absl/status/status.h"

#include "common/model/config.h"

namespace m1 {

struct QuantizeOptions {
  std::string model_dir = {};
  std::string out_dir = {};  // made when absent; must hold no checkpoint yet
  WeightQuantization quantization = {};
  // Called with the bytes written and those of all tensors; false stops the work.
  std::function<bool(int64_t done_bytes, int64_t total_bytes)> progress = nullptr;
};

// Writes the same files under the same names: of a quantised matrix NAME the integers as NAME and
// the scales as NAME_scale, all other tensors as they are, and config.json with a
// quantization_config. Other plain files (tokenizer, licence) are copied. Streams, some rows at a
// time. Errors: those of Checkpoint::Open; InvalidArgument (already quantised, rows that groups do
// not divide, a weight that is not finite), AlreadyExists, ResourceExhausted (disk), Cancelled,
// Internal with the system's message. After an error nothing is left behind; when the process dies
// config.json, which comes last, is missing.
absl::Status QuantizeCheckpoint(const QuantizeOptions& options);

}  // namespace m1
