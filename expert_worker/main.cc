// m1-expert-worker: computes a subset of the experts of every layer for attention workers.
#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "absl/flags/flag.h"
#include "absl/flags/usage.h"
#include "absl/time/time.h"

#include "common/base/log.h"
#include "common/base/status_macros.h"
#include "common/base/trace.h"
#include "common/metrics/server_metrics.h"
#include "common/model/placement.h"
#include "common/rpc/device_fault_exit.h"
#include "common/rpc/metrics_flags.h"
#include "common/rpc/process.h"
#include "common/rpc/server_runner.h"
#include "common/security/security.h"
#include "common/security/security_flags.h"
#include "common/worker/device_transport.h"
#include "common/worker/device_weights.h"
#include "common/worker/staged_exchange.h"
#include "common/worker/worker_model.h"
#include "expert_worker/engine.h"
#include "expert_worker/exchange_service.h"
#include "expert_worker/expert_ffn.h"
#include "expert_worker/expert_store.h"
#include "expert_worker/options.h"
#include "expert_worker/shm_source.h"
#include "expert_worker/worker_metrics.h"

ABSL_FLAG(std::string, address, "127.0.0.1", "address to listen on, or unix:PATH");
ABSL_FLAG(int32_t, port, 0, "port to listen on; 0: a free one, printed to stdout");
ABSL_FLAG(std::string, model, "", "checkpoint directory");
ABSL_FLAG(std::string, experts, "",
          "experts to host, as 0-7,12; without --experts and --shard: all");
ABSL_FLAG(
    std::string, shard, "",
    "I/N: host the Ith of N equal shares of the experts; POD-I/N: share I modulo N, where POD-I "
    "is the name of a pod with its ordinal");
ABSL_FLAG(std::string, activation_dtype, "auto",
          "bf16 or fp32: rounding of activations and rows; auto: the checkpoint's");
ABSL_FLAG(std::string, device, "cpu", "cpu, or cuda: the first GPU that this process sees");
ABSL_FLAG(int32_t, threads, 0, "compute threads; 0: one per core");
ABSL_FLAG(std::string, cpu_target, "",
          "instruction set: portable, avx2, avx512, avx512vnni, avx512bf16; empty: the best of "
          "this machine");
ABSL_FLAG(bool, shared_memory, true,
          "offer shared memory to attention workers of this host that name this one as shm:...");
ABSL_FLAG(
    absl::Duration, exchange_spin, absl::ZeroDuration(),
    "how long to look for the next dispatch before sleeping, at most 20us; useful where a core "
    "is free for it");
ABSL_FLAG(std::string, trace_file, "",
          "write when which experts' rows are computed, in Chrome's trace format, to this file; %p "
          "in it is the process id");
ABSL_FLAG(std::string, weights, "auto",
          "copy: into memory with large pages, faster; mmap: use the files' pages; auto: copy if "
          "that takes at most half of the memory that is available");
ABSL_FLAG(
    bool, pin, false,
    "keep compute thread i on the ith core that this process may use; for machines that it has to "
    "itself");
ABSL_FLAG(std::string, log_level, "info", "error, warning, info, debug or trace");

namespace m1 {
namespace {

// Rows of a dispatch frame, and of a run of the engine; larger steps are split by the sender.
// Enough that the experts are bound by arithmetic, few enough that a slow machine answers well
// within --exchange_timeout.
constexpr int32_t kMaxFrameRows = 1024;
constexpr absl::Duration kShutdownGrace = absl::Seconds(5);
// Of a device link: rows that a slot holds, and slots. A step of 1024 rows is in both lanes at
// once.
constexpr int64_t kDeviceSlotRows = 1024;
constexpr int32_t kDeviceSlots = 4;

ExpertWorkerOptions OptionsFromFlags() {
  ExpertWorkerOptions options;
  options.address = absl::GetFlag(FLAGS_address);
  options.port = absl::GetFlag(FLAGS_port);
  options.model = {.directory = absl::GetFlag(FLAGS_model),
                   .activation_dtype = absl::GetFlag(FLAGS_activation_dtype),
                   .threads = absl::GetFlag(FLAGS_threads),
                   .device = absl::GetFlag(FLAGS_device),
                   .cpu_target = absl::GetFlag(FLAGS_cpu_target),
                   .weights = absl::GetFlag(FLAGS_weights),
                   .pin = absl::GetFlag(FLAGS_pin)};
  options.experts = absl::GetFlag(FLAGS_experts);
  options.shard = absl::GetFlag(FLAGS_shard);
  options.shared_memory = absl::GetFlag(FLAGS_shared_memory);
  options.trace_file = absl::GetFlag(FLAGS_trace_file);
  options.exchange_spin = absl::GetFlag(FLAGS_exchange_spin);
  return options;
}

// Null where rows do not lie in a device's memory, or nothing carries them from there.
std::unique_ptr<DeviceTransport> OfferDeviceLinks(KernelBackend* backend) {
  if (backend->device_kind() == DeviceKind::kCpu) return nullptr;
  absl::StatusOr<std::unique_ptr<DeviceTransport>> transport = CreateDeviceTransport(backend);
  if (transport.ok()) return *std::move(transport);
  M1_LOG(kInfo) << "no device links to offer reason=\"" << transport.status().message() << "\"";
  return nullptr;
}

// What serves, all borrowed.
struct WorkerParts {
  int64_t weight_bytes = 0;
  const ExpertFfn* experts = nullptr;
  ExpertExecutor* executor = nullptr;  // of jobs in the host's memory
  BackendMemory* backend = nullptr;
  const Security* security = nullptr;
  ServerMetrics* metrics = nullptr;
  DeviceFaultExit* fault_exit = nullptr;
};

// Null without --shared_memory, or where the system has none.
std::unique_ptr<ShmSource> OfferSharedMemory(const ExpertWorkerOptions& options,
                                             const DispatchLimits& limits,
                                             const WorkerParts& parts) {
  if (!options.shared_memory) return nullptr;
  absl::StatusOr<std::unique_ptr<ShmSource>> source =
      ShmSource::Create(limits, parts.executor, parts.backend);
  if (source.ok()) return *std::move(source);
  M1_LOG(kWarning) << "no shared memory to offer error=\"" << source.status().message() << "\"";
  return nullptr;
}

absl::Status Serve(const ExpertWorkerOptions& options, ExchangeServiceOptions service_options,
                   const WorkerParts& parts) {
  ServerMetrics* const metrics = parts.metrics;
  const std::unique_ptr<ShmSource> source =
      OfferSharedMemory(options, service_options.limits, parts);
  if (source != nullptr) service_options.shared_memory = source->offer();
  std::unique_ptr<TraceFile> trace;
  if (!options.trace_file.empty()) {
    M1_ASSIGN_OR_RETURN(trace, TraceFile::Create(options.trace_file, "m1-expert-worker"));
  }
  EngineOptions engine_options;
  RunMetrics run_metrics(metrics->registry(), trace.get());
  engine_options.trace = &run_metrics;
  engine_options.heartbeat = metrics->watchdog()->Add("batch loop");
  engine_options.max_run_rows = kMaxFrameRows;
  engine_options.spin = options.exchange_spin;
  Engine engine(parts.executor, engine_options, source.get());
  ExchangeService service(service_options, parts.executor, &engine);
  ServerOptions server;
  server.address = options.address;
  server.port = options.port;
  server.max_receive_message_bytes = service_options.max_message_bytes();
  server.on_serving = [metrics](bool serving) { metrics->SetReady(serving); };
  server.metrics = metrics->registry();
  server.watchdog = metrics->watchdog();
  server.security = parts.security;
  const auto num_peers = [&service, &source] {
    const size_t over_shm = source == nullptr ? 0 : source->num_connections();
    return static_cast<int64_t>(service.num_streams() + over_shm);
  };
  const std::unique_ptr<ScrapedMetrics> scraped = ScrapeExpertWorker(
      metrics->registry(), {&engine, parts.experts, parts.weight_bytes, num_peers});
  M1_ASSIGN_OR_RETURN(
      const std::unique_ptr<ServerRunner> runner,
      ServerRunner::Start(server, {service.service()},
                          [&service](grpc::ServerBuilder& builder) { service.AddQueue(builder); }));
  parts.fault_exit->SetServer(runner.get());
  service.Start();
  runner->SetServing(true);
  runner->WaitForSignal();

  runner->SetServing(false);
  if (source != nullptr) source->Drain();
  service.Drain();
  runner->Shutdown(kShutdownGrace);
  engine.Stop();
  service.Stop();
  parts.fault_exit->SetServer(nullptr);
  const EngineStats stats = engine.stats();
  M1_LOG(kInfo) << "stopped jobs=" << stats.num_jobs << " runs=" << stats.num_runs
                << " rows=" << stats.num_rows;
  return absl::OkStatus();
}

// So that no dispatch pays for a device's memory that grows.
absl::Status WarmUp(const DispatchLimits& limits, DType activation_dtype, ExpertFfn* experts,
                    StagedExecutor* staged) {
  staged->Reserve(activation_dtype, limits.max_rows, limits.max_pairs, limits.shape.hidden_size);
  return experts->WarmUp(limits.max_pairs);
}

absl::Status Run(const ExpertWorkerOptions& options) {
  M1_RETURN_IF_ERROR(Validate(options));
  const SecurityOptions security_options = SecurityFromFlags(Role::kExpertWorker, options.address);
  M1_ASSIGN_OR_RETURN(const std::unique_ptr<Security> security, Security::Create(security_options));
  M1_ASSIGN_OR_RETURN(const ServerMetricsOptions metrics_options,
                      MetricsFromFlags("expert-worker", security_options));
  M1_ASSIGN_OR_RETURN(const std::unique_ptr<ServerMetrics> metrics,
                      ServerMetrics::Start(metrics_options));
  DeviceFaultExit fault_exit;
  M1_ASSIGN_OR_RETURN(const WorkerModel model,
                      OpenWorkerModel(options.model, [&fault_exit](const absl::Status& fault) {
                        fault_exit.End(fault);
                      }));
  const Checkpoint& checkpoint = *model.checkpoint;
  const ModelConfig& config = checkpoint.config();
  M1_ASSIGN_OR_RETURN(const std::vector<int32_t> experts,
                      HostedExperts(options, config.num_experts));

  ExchangeServiceOptions service_options;
  service_options.limits.shape = ShapeOf(config);
  service_options.limits.max_rows = kMaxFrameRows;
  service_options.limits.max_pairs = kMaxFrameRows * config.num_experts_per_token;
  service_options.identity = model.identity;
  M1_LOG(kInfo) << "expert worker model=" << options.model.directory
                << " fingerprint=" << model.identity.fingerprint
                << " weight_format=" << model.identity.weight_format
                << " activation_dtype=" << model.identity.activation_dtype
                << " backend=" << model.backend->name() << " layers=" << config.num_layers
                << " experts=" << FormatExpertList(experts) << " of=" << config.num_experts
                << " hidden=" << config.hidden_size
                << " bytes=" << checkpoint.expert_weight_bytes(experts);
  const int64_t weight_bytes = checkpoint.expert_weight_bytes(experts);
  KernelBackend* const backend = model.backend.get();
  const bool is_on_device = backend->device_kind() != DeviceKind::kCpu;
  const MemoryNeed need = {"weights", weight_bytes};
  M1_RETURN_IF_ERROR(CheckDeviceMemory(backend->AvailableBytes(), {&need, 1}));
  M1_ASSIGN_OR_RETURN(const WeightMemory memory, ChooseWeightMemory(options.model, weight_bytes));
  M1_RETURN_IF_ERROR(checkpoint.PrefetchExperts(experts, LogLoading(TerminationRequested), memory));
  DeviceWeights device_weights(backend);
  M1_ASSIGN_OR_RETURN(const ExpertStore store,
                      ExpertStore::Open(checkpoint, experts, &device_weights));
  ExpertFfn ffn(&store, backend, model.activation_dtype);
  StagedExecutor staged(backend, &ffn);
  if (is_on_device) {
    M1_RETURN_IF_ERROR(WarmUp(service_options.limits, model.activation_dtype, &ffn, &staged));
  }
  ExpertExecutor* const executor = is_on_device ? static_cast<ExpertExecutor*>(&staged) : &ffn;
  const std::unique_ptr<DeviceTransport> transport = OfferDeviceLinks(backend);
  service_options.device_transport = transport.get();
  service_options.device_slots = {
      .num_slots = kDeviceSlots,
      .slot_bytes = kDeviceSlotRows * config.hidden_size * DTypeBytes(model.activation_dtype)};
  metrics->SetModel(IdentityLabels(model.identity));
  return Serve(options, service_options,
               {.weight_bytes = weight_bytes,
                .experts = &ffn,
                .executor = executor,
                .backend = backend,
                .security = security.get(),
                .metrics = metrics.get(),
                .fault_exit = &fault_exit});
}

int Main() {
  absl::Status status = InitProcess(absl::GetFlag(FLAGS_log_level));
  if (status.ok()) status = Run(OptionsFromFlags());
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
