#include "common/text/tokenizer.h"

#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cerrno>
#include <system_error>
#include <utility>

#include "absl/cleanup/cleanup.h"
#include "absl/strings/str_cat.h"

#include "common/base/status_macros.h"
#include "common/text/tokenizer_spec.h"
#include "common/text/utf8_stream.h"

namespace m1 {
namespace {

constexpr size_t kMaxTextBytes = size_t{1} << 30;

absl::string_view AbslView(std::string_view text) { return {text.data(), text.size()}; }

constexpr int64_t kMaxFileBytes = 256 << 20;

// Errors: NotFound if there is no such file; DataLoss if it is no regular file, larger than
// kMaxFileBytes, or cannot be read.
absl::StatusOr<std::string> ReadFile(const std::string& path) {
  const auto error = [&path](int code) {
    const std::string message = absl::StrCat(path, ": ", std::system_category().message(code));
    return code == ENOENT || code == ENOTDIR ? absl::NotFoundError(message)
                                             : absl::DataLossError(message);
  };
  // Opening a pipe must not wait for somebody who writes to it.
  const int fd = open(path.c_str(), O_RDONLY | O_CLOEXEC | O_NONBLOCK);
  if (fd < 0) return error(errno);
  const absl::Cleanup close_file = [fd] { close(fd); };
  struct stat info = {};
  if (fstat(fd, &info) != 0) return error(errno);
  if (!S_ISREG(info.st_mode)) {
    return absl::DataLossError(absl::StrCat(path, ": not a regular file"));
  }
  if (info.st_size > kMaxFileBytes) {
    return absl::DataLossError(
        absl::StrCat(path, ": ", info.st_size, " bytes, at most ", kMaxFileBytes));
  }
  std::string text(static_cast<size_t>(info.st_size), '\0');
  size_t num_read = 0;
  while (num_read < text.size()) {
    const ssize_t num_bytes = read(fd, text.data() + num_read, text.size() - num_read);
    if (num_bytes < 0 && errno == EINTR) continue;
    if (num_bytes < 0) return error(errno);
    if (num_bytes == 0) {
      return absl::DataLossError(
          absl::StrCat(path, ": ended after ", num_read, " of ", text.size(), " bytes"));
    }
    num_read += static_cast<size_t>(num_bytes);
  }
  return text;
}

// vocab.json, merges.txt and, where there is one, tokenizer_config.json.
absl::StatusOr<TokenizerSpec> ReadVocabAndMerges(const std::string& directory) {
  const std::string vocab_path = directory + "/vocab.json";
  const std::string merges_path = directory + "/merges.txt";
  const std::string config_path = directory + "/tokenizer_config.json";
  absl::StatusOr<std::string> vocab_json = ReadFile(vocab_path);
  if (absl::IsNotFound(vocab_json.status())) {
    return absl::NotFoundError(
        absl::StrCat(directory, " has neither tokenizer.json nor vocab.json"));
  }
  if (!vocab_json.ok()) return vocab_json.status();
  M1_ASSIGN_OR_RETURN(const std::string merges_txt, ReadFile(merges_path));

  TokenizerSpec spec;
  spec.patterns.emplace_back(kGpt2Pattern);
  absl::StatusOr<std::vector<VocabEntry>> vocab = ParseVocabJson(*vocab_json);
  if (!vocab.ok()) return AddContext(vocab.status(), vocab_path);
  spec.vocab = *std::move(vocab);
  auto merges = ParseMergesText(merges_txt);
  if (!merges.ok()) return AddContext(merges.status(), merges_path);
  spec.merges = *std::move(merges);
  absl::StatusOr<std::string> config = ReadFile(config_path);
  if (config.ok()) {
    auto specials = ParseTokenizerConfig(*config, spec.vocab);
    if (!specials.ok()) return AddContext(specials.status(), config_path);
    spec.specials = *std::move(specials);
  } else if (!absl::IsNotFound(config.status())) {
    return config.status();
  }
  return spec;
}

absl::Status CheckText(std::string_view utf8) {
  if (utf8.size() > kMaxTextBytes) {
    return absl::InvalidArgumentError(
        absl::StrCat("text of ", utf8.size(), " bytes, at most ", kMaxTextBytes));
  }
  if (!IsValidUtf8(AbslView(utf8))) return absl::InvalidArgumentError("text is not UTF-8");
  return absl::OkStatus();
}

}  // namespace

Tokenizer::Tokenizer(PreTokenizer pre_tokenizer, BpeMerges merges, TokenTable tokens,
                     SpecialTokens specials)
    : pre_tokenizer_(std::move(pre_tokenizer)),
      merges_(std::move(merges)),
      tokens_(std::move(tokens)),
      specials_(std::move(specials)) {}

absl::StatusOr<std::unique_ptr<Tokenizer>> Tokenizer::FromJson(std::string_view tokenizer_json) {
  M1_ASSIGN_OR_RETURN(const TokenizerSpec spec, ParseTokenizerJson(tokenizer_json));
  return FromSpec(spec);
}

absl::StatusOr<std::unique_ptr<Tokenizer>> Tokenizer::FromVocabAndMerges(
    std::string_view vocab_json, std::string_view merges_txt,
    const std::vector<SpecialToken>& specials) {
  TokenizerSpec spec;
  spec.patterns.emplace_back(kGpt2Pattern);
  spec.specials = specials;
  M1_ASSIGN_OR_RETURN(spec.vocab, ParseVocabJson(vocab_json));
  M1_ASSIGN_OR_RETURN(spec.merges, ParseMergesText(merges_txt));
  return FromSpec(spec);
}

absl::StatusOr<std::unique_ptr<Tokenizer>> Tokenizer::Load(const std::string& directory) {
  const std::string json_path = directory + "/tokenizer.json";
  absl::StatusOr<std::string> json = ReadFile(json_path);
  if (json.ok()) {
    absl::StatusOr<std::unique_ptr<Tokenizer>> tokenizer = FromJson(*json);
    if (!tokenizer.ok()) return AddContext(tokenizer.status(), json_path);
    return tokenizer;
  }
  if (!absl::IsNotFound(json.status())) return json.status();

  M1_ASSIGN_OR_RETURN(const TokenizerSpec spec, ReadVocabAndMerges(directory));
  absl::StatusOr<std::unique_ptr<Tokenizer>> tokenizer = FromSpec(spec);
  if (!tokenizer.ok()) return AddContext(tokenizer.status(), directory + "/vocab.json");
  return tokenizer;
}

absl::Status Tokenizer::AppendText(std::string_view utf8, std::vector<int32_t>* ids) const {
  return pre_tokenizer_.Split(utf8, [this, ids](std::string_view piece) {
    const int32_t whole = tokens_.FindWholePiece(piece);
    if (whole >= 0) {
      ids->push_back(whole);
    } else {
      merges_.Encode(piece, ids);
    }
  });
}

absl::StatusOr<std::vector<int32_t>> Tokenizer::EncodeText(std::string_view utf8) const {
  M1_RETURN_IF_ERROR(CheckText(utf8));
  std::vector<int32_t> ids;
  M1_RETURN_IF_ERROR(AppendText(utf8, &ids));
  return ids;
}

absl::StatusOr<std::vector<int32_t>> Tokenizer::EncodeWithSpecials(std::string_view utf8) const {
  M1_RETURN_IF_ERROR(CheckText(utf8));
  std::vector<int32_t> ids;
  size_t begin = 0;
  while (const auto match = specials_.FindNext(utf8, begin)) {
    M1_RETURN_IF_ERROR(AppendText(utf8.substr(begin, match->begin - begin), &ids));
    ids.push_back(match->id);
    begin = match->begin + match->num_bytes;
  }
  M1_RETURN_IF_ERROR(AppendText(utf8.substr(begin), &ids));
  return ids;
}

std::string Tokenizer::DecodeText(std::span<const int32_t> ids) const {
  std::string bytes;
  for (int32_t id : ids) bytes += TokenBytes(id);
  Utf8Stream stream;
  std::string text = stream.Push(bytes);
  text += stream.End();
  return text;
}

}  // namespace m1
