// Token files, certificates and keys of any bytes: no crash, and an error that repeats nothing of
// them.
#include <cstddef>
#include <cstdint>
#include <cstdlib>
#include <string>

#include "absl/strings/string_view.h"
#include "absl/time/time.h"

#include "common/security/bearer_tokens.h"
#include "common/security/tls_identity.h"

namespace {

void Require(bool condition) {
  if (!condition) std::abort();
}

template <typename T>
void RequireClearError(const absl::StatusOr<T>& result) {
  if (result.ok()) return;
  Require(result.status().code() == absl::StatusCode::kInvalidArgument);
  Require(result.status().message().size() < 300);
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  const absl::string_view text(reinterpret_cast<const char*>(data), size);
  const absl::StatusOr<m1::BearerTokens> tokens = m1::BearerTokens::Parse(text);
  RequireClearError(tokens);
  if (tokens.ok()) {
    Require(tokens->size() <= m1::BearerTokens::kMaxTokens);
    Require(!tokens->HolderOf(text).has_value());
  }
  // One file with everything, as some tools write it.
  const std::string pem(text);
  RequireClearError(m1::ParseTlsIdentity({pem, pem, pem}, absl::FromUnixSeconds(2000000000)));
  return 0;
}
