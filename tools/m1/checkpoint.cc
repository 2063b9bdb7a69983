// m1 checkpoint make: a random checkpoint in the original format, for benchmarks and tests.
// m1 checkpoint fingerprint: which weights a directory holds, and whether they are those wanted.
#include "common/model/checkpoint.h"

#include <iostream>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "absl/strings/ascii.h"
#include "absl/strings/str_cat.h"

#include "common/base/status_macros.h"
#include "common/model/checkpoint_writer.h"
#include "tools/m1/commands.h"
#include "tools/m1/flag_set.h"
#include "tools/m1/job_progress.h"

namespace m1 {
namespace {

absl::Status Make(const std::vector<std::string>& args) {
  RandomCheckpointOptions options;
  std::optional<uint64_t> seed;
  std::string dtype = "bf16";
  std::optional<int32_t> shard_mib;
  FlagSet set(
      "checkpoint make",
      "writes a checkpoint of random weights that behave like a network. The same seed gives "
      "the same bytes\non every machine.");
  set.String("config", &options.config_path, "config.json to follow; it is copied");
  set.String("out", &options.out_dir, "directory to make; must hold no checkpoint");
  set.Uint64("seed", &seed, "(0)");
  set.String("dtype", &dtype, "bf16 or fp32, of matrices and norms (bf16)");
  set.Int("shard_mib", &shard_mib, "size of a file in MiB; absent: one file");
  M1_RETURN_IF_ERROR(set.Parse(args));
  if (set.help_requested()) {
    std::cout << set.HelpText();
    return absl::OkStatus();
  }
  if (options.config_path.empty()) return absl::InvalidArgumentError("--config is missing");
  if (options.out_dir.empty()) return absl::InvalidArgumentError("--out is missing");
  if (dtype != "bf16" && dtype != "fp32") {
    return absl::InvalidArgumentError(
        absl::StrCat("--dtype is \"", dtype, "\", wanted bf16 or fp32"));
  }
  if (shard_mib.has_value() && *shard_mib < 1) {
    return absl::InvalidArgumentError(
        absl::StrCat("--shard_mib is ", *shard_mib, ", wanted at least 1"));
  }
  options.dtype = dtype == "fp32" ? DType::kF32 : DType::kBf16;
  options.seed = seed.value_or(0);
  if (shard_mib.has_value()) options.max_shard_bytes = int64_t{*shard_mib} << 20;

  JobProgress job;
  options.progress = [&job](int64_t done_bytes, int64_t total_bytes) {
    return job.Show(done_bytes, total_bytes);
  };
  return WriteRandomCheckpoint(options);
}

// 64 hex digits, in either case.
absl::Status CheckFingerprintFlag(const std::string& expect) {
  bool is_hex = expect.size() == 64;
  for (const char c : expect)
    is_hex = is_hex && absl::ascii_isxdigit(static_cast<unsigned char>(c));
  if (is_hex) return absl::OkStatus();
  return absl::InvalidArgumentError(
      absl::StrCat("--expect is \"", expect, "\", wanted 64 hexadecimal digits"));
}

// Prints the fingerprint of a checkpoint; with --expect another one is DataLoss: exit code 3.
absl::Status Fingerprint(const std::vector<std::string>& args) {
  std::string directory;
  std::string expect;
  FlagSet set("checkpoint fingerprint",
              "checks a checkpoint's files and prints what workers compare when they connect:\n"
              "SHA-256 over config, tensor table and 4 KiB out of each tensor.");
  set.String("model", &directory, "directory of the checkpoint");
  set.String("expect", &expect, "the fingerprint it must have, else exit code 3; empty: any");
  M1_RETURN_IF_ERROR(set.Parse(args));
  if (set.help_requested()) {
    std::cout << set.HelpText();
    return absl::OkStatus();
  }
  if (directory.empty()) return absl::InvalidArgumentError("--model is missing");
  if (!expect.empty()) M1_RETURN_IF_ERROR(CheckFingerprintFlag(expect));
  M1_ASSIGN_OR_RETURN(const std::unique_ptr<Checkpoint> checkpoint, Checkpoint::Open(directory));
  std::cout << checkpoint->fingerprint() << std::endl;
  if (expect.empty() || absl::AsciiStrToLower(expect) == checkpoint->fingerprint()) {
    return absl::OkStatus();
  }
  return absl::DataLossError(absl::StrCat("fingerprint of ", directory, " is ",
                                          checkpoint->fingerprint(), ", wanted ", expect));
}

absl::Status Run(const std::vector<std::string>& args) {
  if (args.empty() || args[0] == "--help" || args[0] == "-h") {
    std::cout
        << "usage: m1 checkpoint make --config FILE --out DIR [--seed N] [--dtype bf16|fp32]\n"
           "       m1 checkpoint fingerprint --model DIR [--expect HEX]\n";
    return absl::OkStatus();
  }
  const std::vector<std::string> rest(args.begin() + 1, args.end());
  if (args[0] == "make") return Make(rest);
  if (args[0] == "fingerprint") return Fingerprint(rest);
  return absl::InvalidArgumentError(
      absl::StrCat("no action \"", args[0], "\", wanted make or fingerprint"));
}

}  // namespace

int RunCheckpoint(const std::vector<std::string>& args) {
  const absl::Status status = Run(args);
  return status.ok() ? 0 : FailCommand("checkpoint", status);
}

}  // namespace m1
