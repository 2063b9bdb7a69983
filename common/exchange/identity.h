// What two workers must agree on before they exchange numbers (proto/m1/v1/identity.proto).
#pragma once

#include <cstdint>
#include <map>
#include <string>

namespace m1 {

// Bumped whenever a worker-to-worker message changes its meaning.
inline constexpr int32_t kProtocolRevision = 5;

struct WorkerIdentity {
  std::string fingerprint;       // Checkpoint::fingerprint()
  std::string weight_format;     // Checkpoint::weight_format()
  std::string activation_dtype;  // "bf16" or "fp32"
  std::string device_kind;       // "cpu" or "cuda"
  int32_t numerics_revision = 0;
  int32_t protocol_revision = kProtocolRevision;

  friend bool operator==(const WorkerIdentity&, const WorkerIdentity&) = default;
};

// What identifies the numbers, by the names of the fields: labels of a metric.
std::map<std::string, std::string> IdentityLabels(const WorkerIdentity& identity);

// Names every field that differs, with both values; empty when they are equal:
// `activation_dtype: ours "bf16", theirs "fp32"`.
std::string IdentityDifference(const WorkerIdentity& ours, const WorkerIdentity& theirs);

}  // namespace m1
