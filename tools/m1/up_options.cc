#include "tools/m1/up_options.h"

#include <cstdint>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"

namespace m1 {
namespace {

constexpr unsigned kExpert = 1;
constexpr unsigned kAttention = 2;
constexpr unsigned kRouterBit = 4;

struct ServerFlag {
  const char* name;
  unsigned kinds;
};

constexpr ServerFlag kServerFlags[] = {
    {"address", kRouterBit},  // workers stay on loopback
    {"tls_cert", kExpert | kAttention | kRouterBit},
    {"tls_key", kExpert | kAttention | kRouterBit},
    {"tls_ca", kExpert | kAttention | kRouterBit},
    {"insecure", kExpert | kAttention | kRouterBit},  // also of --metrics_address
    {"token_file", kRouterBit},
    {"log_level", kExpert | kAttention | kRouterBit},
    {"metrics_address", kExpert | kAttention | kRouterBit},
    {"liveness_timeout", kExpert | kAttention | kRouterBit},
    {"activation_dtype", kExpert | kAttention},
    {"threads", kExpert | kAttention},
    {"cpu_target", kExpert | kAttention},
    {"weights", kExpert | kAttention},
    {"device", kExpert | kAttention},
    {"max_sequences", kAttention},
    {"kv_bytes", kAttention},
    {"max_context_tokens", kAttention},
    {"max_step_tokens", kAttention},
    {"max_replay_tokens", kAttention},
    {"target_itl", kAttention},
    {"batches_in_flight", kAttention},
    {"trace_file", kExpert | kAttention},
    {"exchange_timeout", kAttention},
    {"exchange_spin", kExpert | kAttention},
    {"shared_memory", kExpert},
    {"expert_loss_timeout", kAttention},
    {"drain_timeout", kAttention | kRouterBit},
    {"queue_size", kRouterBit},
    {"priority_ageing", kRouterBit},
    {"max_message_bytes", kRouterBit},
    {"worker_loss_timeout", kRouterBit},
    {"repetition_probability", kRouterBit},
    {"repetition_run_tokens", kRouterBit},
    {"slow_reader_timeout", kRouterBit},
};

unsigned Bit(ProcessKind kind) {
  switch (kind) {
    case ProcessKind::kExpertWorker:
      return kExpert;
    case ProcessKind::kAttentionWorker:
      return kAttention;
    case ProcessKind::kRouter:
      return kRouterBit;
  }
  return 0;
}

std::string ExpertWorkers(const UpOptions& options, const ProcessArgsInput& input) {
  if (options.transport == "inproc") return "inproc";
  const std::string prefix = options.transport == "shm" ? "shm:" : "";
  return absl::StrJoin(input.expert_addresses, ",",
                       [&prefix](std::string* out, const std::string& address) {
                         absl::StrAppend(out, prefix, address);
                       });
}

int MetricsPort(const UpOptions& options, const ProcessArgsInput& input) {
  switch (input.kind) {
    case ProcessKind::kRouter:
      return options.metrics_port;
    case ProcessKind::kAttentionWorker:
      return options.metrics_port + 1 + input.index;
    case ProcessKind::kExpertWorker:
      return options.metrics_port + 1 + options.attention_workers + input.index;
  }
  return 0;
}

unsigned KindsOf(absl::string_view name) {
  for (const ServerFlag& flag : kServerFlags) {
    if (name == flag.name) return flag.kinds;
  }
  return 0;
}

}  // namespace

absl::string_view BinaryName(ProcessKind kind) {
  switch (kind) {
    case ProcessKind::kExpertWorker:
      return "m1-expert-worker";
    case ProcessKind::kAttentionWorker:
      return "m1-attention-worker";
    case ProcessKind::kRouter:
      return "m1-router";
  }
  return "";
}

absl::string_view KindName(ProcessKind kind) {
  switch (kind) {
    case ProcessKind::kExpertWorker:
      return "expert worker";
    case ProcessKind::kAttentionWorker:
      return "attention worker";
    case ProcessKind::kRouter:
      return "router";
  }
  return "";
}

bool IsServerFlag(absl::string_view name) { return KindsOf(name) != 0; }

absl::Status UpOptions::Validate() const {
  const auto bad = [](absl::string_view flag, auto got, absl::string_view wanted) {
    return absl::InvalidArgumentError(absl::StrCat("--", flag, " is ", got, ", wanted ", wanted));
  };
  for (const auto& flag : passed_on) {
    if (!IsServerFlag(flag.first)) {
      return absl::InvalidArgumentError(absl::StrCat("unknown flag --", flag.first));
    }
  }
  if (model.empty()) return bad("model", "empty", "a directory");
  if (transport != "shm" && transport != "grpc" && transport != "inproc") {
    return bad("transport", absl::StrCat("\"", transport, "\""), "shm, grpc or inproc");
  }
  if (expert_workers < 1 || expert_workers > 256) {
    return bad("expert_workers", expert_workers, "1..256");
  }
  if (attention_workers < 1 || attention_workers > 64) {
    return bad("attention_workers", attention_workers, "1..64");
  }
  if (port < 0 || port > 65535) return bad("port", port, "0..65535");
  const int most = 65535 - attention_workers - expert_workers;
  if (metrics_port < 0 || metrics_port > most) {
    return bad("metrics_port", metrics_port, absl::StrCat("0..", most, ": each process takes one"));
  }
  return absl::OkStatus();
}

std::string UpOptions::PassedOn(absl::string_view name) const {
  std::string found;
  for (const auto& flag : passed_on) {
    if (flag.first == name) found = flag.second;
  }
  return found;
}

bool UpOptions::PinsByDefault(int num_allowed_cores, int num_machine_cores) const {
  for (const auto& flag : passed_on) {
    if (flag.first == "threads") return false;
  }
  return num_allowed_cores >= num_machine_cores;
}

std::vector<std::string> ProcessArgs(const UpOptions& options, const ProcessArgsInput& input) {
  std::vector<std::string> args = {absl::StrCat("--model=", options.model),
                                   absl::StrCat("--port=", input.port)};
  switch (input.kind) {
    case ProcessKind::kExpertWorker:
      args.push_back(absl::StrCat("--shard=", input.index, "/", options.expert_workers));
      break;
    case ProcessKind::kAttentionWorker:
      args.push_back(absl::StrCat("--expert_workers=", ExpertWorkers(options, input)));
      break;
    case ProcessKind::kRouter:
      args.push_back(
          absl::StrCat("--attention_workers=", absl::StrJoin(input.attention_addresses, ",")));
      break;
  }
  if (options.metrics_port != 0) {
    args.push_back(absl::StrCat("--metrics_port=", MetricsPort(options, input)));
  }
  if (options.pin && input.kind != ProcessKind::kRouter) args.push_back("--pin");
  for (const auto& [name, value] : options.passed_on) {
    if ((KindsOf(name) & Bit(input.kind)) != 0)
      args.push_back(absl::StrCat("--", name, "=", value));
  }
  return args;
}

}  // namespace m1
