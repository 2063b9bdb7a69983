#include "common/model/fingerprint.h"

#include <openssl/evp.h>

#include <algorithm>
#include <array>
#include <cstddef>
#include <memory>
#include <span>
#include <vector>

#include "absl/status/status.h"
#include "absl/strings/escaping.h"
#include "absl/strings/str_cat.h"

#include "common/base/status_macros.h"

namespace m1 {
namespace {

constexpr int64_t kSampleBytes = 4096;

class Sha256 {
 public:
  Sha256() : context_(EVP_MD_CTX_new()) {
    ok_ = context_ != nullptr && EVP_DigestInit_ex(context_.get(), EVP_sha256(), nullptr) == 1;
  }

  void Add(std::span<const std::byte> bytes) {
    ok_ = ok_ && EVP_DigestUpdate(context_.get(), bytes.data(), bytes.size()) == 1;
  }
  // With its length before it, so that no two sequences of texts are the same bytes.
  void AddText(absl::string_view text) {
    const std::string sized = absl::StrCat(text.size(), ":", text);
    Add(std::as_bytes(std::span(sized)));
  }

  absl::StatusOr<std::string> Hex() {
    std::array<unsigned char, EVP_MAX_MD_SIZE> digest;
    unsigned int size = 0;
    ok_ = ok_ && EVP_DigestFinal_ex(context_.get(), digest.data(), &size) == 1;
    if (!ok_) return absl::InternalError("OpenSSL cannot compute SHA-256");
    return absl::BytesToHexString(
        absl::string_view(reinterpret_cast<const char*>(digest.data()), size));
  }

 private:
  struct Free {
    void operator()(EVP_MD_CTX* context) const { EVP_MD_CTX_free(context); }
  };
  std::unique_ptr<EVP_MD_CTX, Free> context_;
  bool ok_ = false;
};

}  // namespace

absl::StatusOr<std::string> ComputeFingerprint(const ModelConfig& config,
                                               const TensorTable& table) {
  Sha256 hash;
  hash.AddText(DescribeModelConfig(config));
  std::vector<std::byte> sample;
  for (const auto& [name, record] : table.records()) {
    const SafetensorsEntry& entry = *record.entry;
    hash.AddText(name);
    hash.AddText(SafetensorsDTypeName(entry.dtype));
    hash.AddText(entry.shape.ToString());
    const int64_t size = std::min(entry.size_bytes, kSampleBytes);
    sample.resize(static_cast<size_t>(size));
    M1_RETURN_IF_ERROR(
        record.file->file().ReadAt(entry.offset_bytes + (entry.size_bytes - size) / 2, sample));
    hash.Add(sample);
  }
  return hash.Hex();
}

}  // namespace m1
