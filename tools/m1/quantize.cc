// m1 quantize: a checkpoint whose experts, or all of whose large matrices, are integers with scales.
#include <iostream>
#include <optional>

#include "absl/strings/str_cat.h"

#include "common/base/status_macros.h"
#include "common/model/checkpoint_quantizer.h"
#include "tools/m1/commands.h"
#include "tools/m1/flag_set.h"
#include "tools/m1/job_progress.h"

namespace m1 {
namespace {

struct Flags {
  std::string model;
  std::string out;
  std::string format = "int8";
  std::string scope = "experts";
  std::optional<int32_t> group_size;
};

absl::StatusOr<QuantizeOptions> ToOptions(const Flags& flags) {
  const auto wrong = [](absl::string_view flag, absl::string_view value, absl::string_view wanted) {
    return absl::InvalidArgumentError(
        absl::StrCat("--", flag, " is \"", value, "\", wanted ", wanted));
  };
  if (flags.model.empty()) return absl::InvalidArgumentError("--model is missing");
  if (flags.out.empty()) return absl::InvalidArgumentError("--out is missing");
  if (flags.format != "int8" && flags.format != "int4") {
    return wrong("format", flags.format, "int8 or int4");
  }
  if (flags.scope != "experts" && flags.scope != "all") {
    return wrong("scope", flags.scope, "experts or all");
  }
  const int32_t group_size = flags.group_size.value_or(32);
  if (group_size != 32 && group_size != 64) {
    return wrong("group_size", absl::StrCat(group_size), "32 or 64");
  }
  if (flags.group_size.has_value() && flags.format != "int4") {
    return absl::InvalidArgumentError("--group_size is for --format int4");
  }
  QuantizeOptions options{.model_dir = flags.model, .out_dir = flags.out};
  const bool int8 = flags.format == "int8";
  options.quantization = {.format = int8 ? MatrixFormat::kInt8 : MatrixFormat::kInt4,
                          .everything = flags.scope == "all",
                          .group_size = int8 ? 0 : group_size};
  return options;
}

absl::Status Run(const std::vector<std::string>& args) {
  Flags flags;
  FlagSet set("quantize",
              "writes a checkpoint with integers for matrices: int8 with a scale for each row, or int4\n"
              "with a scale for each group of a row. Tokenizer and other files are copied.");
  set.String("model", &flags.model, "checkpoint directory, bf16 or fp32");
  set.String("out", &flags.out, "directory to make; must hold no checkpoint");
  set.String("format", &flags.format, "int8 or int4 (int8)");
  set.String("scope", &flags.scope,
             "experts, or all: also projections, shared expert and LM head (experts)");
  set.Int("group_size", &flags.group_size, "int4: elements that share a scale, 32 or 64 (32)");
  M1_RETURN_IF_ERROR(set.Parse(args));
  if (set.help_requested()) {
    std::cout << set.HelpText();
    return absl::OkStatus();
  }
  M1_ASSIGN_OR_RETURN(QuantizeOptions options, ToOptions(flags));
  JobProgress job;
  options.progress = [&job](int64_t done_bytes, int64_t total_bytes) {
    return job.Show(done_bytes, total_bytes);
  };
  return QuantizeCheckpoint(options);
}

}  // namespace

int RunQuantize(const std::vector<std::string>& args) {
  const absl::Status status = Run(args);
  return status.ok() ? 0 : FailCommand("quantize", status);
}

}  // namespace m1
