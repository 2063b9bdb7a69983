#include "common/exchange/identity.h"

#include <vector>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "absl/strings/string_view.h"

namespace m1 {

std::map<std::string, std::string> IdentityLabels(const WorkerIdentity& identity) {
  return {{"fingerprint", identity.fingerprint},
          {"weight_format", identity.weight_format},
          {"activation_dtype", identity.activation_dtype},
          {"numerics_revision", absl::StrCat(identity.numerics_revision)}};
}

std::string IdentityDifference(const WorkerIdentity& ours, const WorkerIdentity& theirs) {
  std::vector<std::string> differences;
  const auto compare_text = [&](absl::string_view field, const std::string& a,
                                const std::string& b) {
    if (a == b) return;
    differences.push_back(absl::StrCat(field, ": ours \"", a, "\", theirs \"", b, "\""));
  };
  const auto compare_number = [&](absl::string_view field, int32_t a, int32_t b) {
    if (a == b) return;
    differences.push_back(absl::StrCat(field, ": ours ", a, ", theirs ", b));
  };
  compare_text("fingerprint", ours.fingerprint, theirs.fingerprint);
  compare_text("weight_format", ours.weight_format, theirs.weight_format);
  compare_text("activation_dtype", ours.activation_dtype, theirs.activation_dtype);
  compare_text("device_kind", ours.device_kind, theirs.device_kind);
  compare_number("numerics_revision", ours.numerics_revision, theirs.numerics_revision);
  compare_number("protocol_revision", ours.protocol_revision, theirs.protocol_revision);
  return absl::StrJoin(differences, "; ");
}

}  // namespace m1
