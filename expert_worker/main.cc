// m1-expert-worker: computes a subset of the experts of every layer for attention workers.
#include <algorithm>
#include <cstdint>
#include <memory>
#include <string>
#include <thread>
#include <utility>
#include <vector>

#include "absl/flags/flag.h"
#include "absl/flags/usage.h"
#include "absl/strings/str_cat.h"
#include "absl/time/clock.h"

#include "common/base/log.h"
#include "common/base/status_macros.h"
#include "common/kernels/cpu_backend.h"
#include "common/model/checkpoint.h"
#include "common/model/placement.h"
#include "common/rpc/process.h"
#include "common/rpc/server_runner.h"
#include "expert_worker/engine.h"
#include "expert_worker/exchange_service.h"
#include "expert_worker/expert_ffn.h"
#include "expert_worker/expert_store.h"
#include "expert_worker/options.h"

ABSL_FLAG(std::string, address, "127.0.0.1", "address to listen on, or unix:PATH");
ABSL_FLAG(int32_t, port, 0, "port to listen on; 0: a free one, printed to stdout");
ABSL_FLAG(std::string, model, "", "checkpoint directory");
ABSL_FLAG(std::string, experts, "",
          "experts to host, as 0-7,12; without --experts and --shard: all");
ABSL_FLAG(std::string, shard, "", "I/N: host the Ith of N equal shares of the experts");
ABSL_FLAG(std::string, activation_dtype, "auto",
          "bf16 or fp32: rounding of activations and rows; auto: the checkpoint's");
ABSL_FLAG(int32_t, threads, 0, "compute threads; 0: one per core");
ABSL_FLAG(std::string, cpu_target, "",
          "instruction set: portable, avx2, avx512, avx512bf16; empty: the best of this machine");
ABSL_FLAG(std::string, log_level, "info", "error, warning, info, debug or trace");

namespace m1 {
namespace {

// Rows of a dispatch frame, and of a run of the engine; larger steps are split by the sender.
// Enough that the experts are bound by arithmetic, few enough that a slow machine answers well
// within --exchange_timeout.
constexpr int32_t kMaxFrameRows = 1024;
constexpr absl::Duration kShutdownGrace = absl::Seconds(5);

ExpertWorkerOptions OptionsFromFlags() {
  ExpertWorkerOptions options;
  options.address = absl::GetFlag(FLAGS_address);
  options.port = absl::GetFlag(FLAGS_port);
  options.model = absl::GetFlag(FLAGS_model);
  options.experts = absl::GetFlag(FLAGS_experts);
  options.shard = absl::GetFlag(FLAGS_shard);
  options.activation_dtype = absl::GetFlag(FLAGS_activation_dtype);
  options.threads = absl::GetFlag(FLAGS_threads);
  options.cpu_target = absl::GetFlag(FLAGS_cpu_target);
  return options;
}

// Whatever is wrong with the files is DataLoss or NotFound: exit code 3.
absl::StatusOr<std::unique_ptr<Checkpoint>> OpenCheckpoint(const std::string& model) {
  absl::StatusOr<std::unique_ptr<Checkpoint>> checkpoint = Checkpoint::Open(model);
  if (checkpoint.status().code() == absl::StatusCode::kInvalidArgument) {
    return absl::DataLossError(checkpoint.status().message());
  }
  return checkpoint;
}

// Whatever is wrong is the flag's: exit code 2.
absl::StatusOr<std::unique_ptr<KernelBackend>> CreateBackend(const ExpertWorkerOptions& options) {
  const int cores = static_cast<int>(std::max(1U, std::thread::hardware_concurrency()));
  absl::StatusOr<std::unique_ptr<KernelBackend>> backend =
      CreateCpuBackend({.num_threads = options.threads == 0 ? cores : options.threads,
                        .target = options.cpu_target});
  if (!backend.ok()) {
    return absl::InvalidArgumentError(
        absl::StrCat("--cpu_target \"", options.cpu_target, "\": ", backend.status().message()));
  }
  return backend;
}

absl::Status Prefetch(const Checkpoint& checkpoint, const std::vector<int32_t>& experts) {
  absl::Time next_line = absl::Now() + absl::Seconds(2);
  return checkpoint.PrefetchExperts(experts, [&next_line](int64_t done, int64_t total) {
    if (absl::Now() >= next_line) {
      M1_LOG(kInfo) << "loading done_bytes=" << done << " total_bytes=" << total;
      next_line = absl::Now() + absl::Seconds(2);
    }
    return !TerminationRequested();
  });
}

ExpertModelShape ShapeOf(const ModelConfig& config) {
  return {config.num_layers, config.num_experts, config.hidden_size,
          config.expert_intermediate_size};
}

absl::Status Serve(const ExpertWorkerOptions& options,
                   const ExchangeServiceOptions& service_options, ExpertFfn* executor) {
  EngineOptions engine_options;
  engine_options.max_run_rows = kMaxFrameRows;
  Engine engine(executor, engine_options);
  ExchangeService service(service_options, executor, &engine);
  ServerOptions server;
  server.address = options.address;
  server.port = options.port;
  server.max_receive_message_bytes = service_options.max_message_bytes();
  M1_ASSIGN_OR_RETURN(
      const std::unique_ptr<ServerRunner> runner,
      ServerRunner::Start(server, {service.service()},
                          [&service](grpc::ServerBuilder& builder) { service.AddQueue(builder); }));
  service.Start();
  runner->SetServing(true);
  runner->WaitForSignal();

  runner->SetServing(false);
  service.Drain();
  runner->Shutdown(kShutdownGrace);
  engine.Stop();
  service.Stop();
  const EngineStats stats = engine.stats();
  M1_LOG(kInfo) << "stopped jobs=" << stats.num_jobs << " runs=" << stats.num_runs
                << " rows=" << stats.num_rows;
  return absl::OkStatus();
}

absl::Status Run(const ExpertWorkerOptions& options) {
  M1_RETURN_IF_ERROR(Validate(options));
  M1_ASSIGN_OR_RETURN(const std::unique_ptr<KernelBackend> backend, CreateBackend(options));
  M1_ASSIGN_OR_RETURN(const std::unique_ptr<Checkpoint> checkpoint, OpenCheckpoint(options.model));
  const ModelConfig& config = checkpoint->config();
  M1_ASSIGN_OR_RETURN(const std::vector<int32_t> experts,
                      HostedExperts(options, config.num_experts));
  const DType dtype = ActivationDType(options, config);

  ExchangeServiceOptions service_options;
  service_options.shape = ShapeOf(config);
  service_options.max_rows = kMaxFrameRows;
  service_options.max_pairs = kMaxFrameRows * config.num_experts_per_token;
  service_options.identity = {checkpoint->fingerprint(),
                              checkpoint->weight_format(),
                              std::string(DTypeName(dtype)),
                              "cpu",
                              kNumericsRevision,
                              kProtocolRevision};
  M1_LOG(kInfo) << "expert worker model=" << options.model
                << " fingerprint=" << checkpoint->fingerprint()
                << " weight_format=" << checkpoint->weight_format()
                << " activation_dtype=" << DTypeName(dtype) << " backend=" << backend->name()
                << " layers=" << config.num_layers << " experts=" << FormatExpertList(experts)
                << " of=" << config.num_experts << " hidden=" << config.hidden_size
                << " bytes=" << checkpoint->expert_weight_bytes(experts);
  M1_ASSIGN_OR_RETURN(const ExpertStore store,
                      ExpertStore::Create(service_options.shape, experts,
                                          [&checkpoint](int32_t layer, int32_t expert) {
                                            return checkpoint->expert_weights(layer, expert);
                                          }));
  M1_RETURN_IF_ERROR(Prefetch(*checkpoint, experts));
  ExpertFfn executor(&store, backend.get(), dtype);
  return Serve(options, service_options, &executor);
}

int Main() {
  absl::Status status = InitProcess(absl::GetFlag(FLAGS_log_level));
  if (status.ok()) status = Run(OptionsFromFlags());
  // Only a termination signal while loading cancels: an orderly end.
  if (absl::IsCancelled(status)) status = absl::OkStatus();
  return ExitWith(status);
}

}  // namespace
}  // namespace m1

int main(int argc, char** argv) {
  absl::SetProgramUsageMessage(
      "Computes a subset of the experts of every layer.\n"
      "  m1-expert-worker --model DIR [--experts 0-7 | --shard 0/4] [--port P]");
  m1::ParseFlags(argc, argv);
  return m1::Main();
}
