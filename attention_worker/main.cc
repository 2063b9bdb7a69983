// m1-attention-worker: attention layers, recurrent state, KV blocks, gates, LM head and sampling.
#include <memory>
#include <numeric>
#include <string>
#include <vector>

#include "absl/flags/flag.h"
#include "absl/flags/usage.h"

#include "attention_worker/attention_service.h"
#include "attention_worker/engine.h"
#include "attention_worker/options.h"
#include "attention_worker/readiness.h"
#include "attention_worker/step_metrics.h"
#include "attention_worker/worker_metrics.h"
#include "common/base/flag_checks.h"
#include "common/base/log.h"
#include "common/base/status_macros.h"
#include "common/base/trace.h"
#include "common/base/watchdog.h"
#include "common/exchange/inproc_exchange.h"
#include "common/metrics/server_metrics.h"
#include "common/rpc/channel.h"
#include "common/rpc/device_fault_exit.h"
#include "common/rpc/identity_proto.h"
#include "common/rpc/metrics_flags.h"
#include "common/rpc/process.h"
#include "common/rpc/remote_exchange.h"
#include "common/rpc/server_runner.h"
#include "common/security/security.h"
#include "common/security/security_flags.h"
#include "common/worker/device_transport.h"
#include "common/worker/device_weights.h"
#include "common/worker/staged_exchange.h"
#include "common/worker/worker_model.h"
#include "expert_worker/expert_ffn.h"

ABSL_FLAG(std::string, address, "127.0.0.1", "Address to listen on");
ABSL_FLAG(int32_t, port, 0, "Port to listen on; 0 picks a free one");
ABSL_FLAG(std::string, weights, "auto",
          "copy: into memory with large pages, faster; mmap: use the files' pages; auto: copy if "
          "that takes at most half of the memory that is available");
ABSL_FLAG(
    bool, pin, false,
    "Keep compute thread i on the ith core that this process may use; for machines that it has to "
    "itself");
ABSL_FLAG(std::string, log_level, "info", "error, warning, info, debug or trace");
ABSL_FLAG(std::string, model, "", "Checkpoint directory");
ABSL_FLAG(
    std::string, expert_workers, "",
    "Expert workers, comma-separated: host:port, unix:path or dns:///name:port; shm:host:port or "
    "shm:unix:path for shared memory with one on this host; nccl:host:port or nccl:unix:path for "
    "rows from GPU to GPU; or \"inproc\": all experts in this process");
ABSL_FLAG(std::string, activation_dtype, "auto", "bf16, fp32, or auto: that of the checkpoint");
ABSL_FLAG(std::string, device, "cpu", "cpu, or cuda: the first GPU that this process sees");
ABSL_FLAG(int32_t, threads, 0, "Compute threads; 0: one per core");
ABSL_FLAG(std::string, cpu_target, "",
          "Instruction set: portable, avx2, avx512, avx512vnni or avx512bf16; empty: the best");
ABSL_FLAG(int32_t, max_sequences, 64, "Sequences that are resident at once");
ABSL_FLAG(int64_t, kv_bytes, 0, "Bytes of the KV pool; 0: 1 GiB, or less where that is no use");
ABSL_FLAG(int64_t, max_context_tokens, 0,
          "Tokens of prompt and answer that a sequence may reach; 0: the model's");
ABSL_FLAG(int32_t, max_step_tokens, 1024,
          "Rows that a step computes at most; each step of a long prompt reads the weights of all "
          "experts");
ABSL_FLAG(int64_t, max_replay_tokens, 32768,
          "Longer sequences lose their memory to others last when blocks run out");
ABSL_FLAG(absl::Duration, target_itl, absl::Milliseconds(100),
          "While sequences decode, steps take as many prompt tokens as keep to this time; 0: all "
          "that --max_step_tokens allows");
ABSL_FLAG(std::string, batches_in_flight, "auto",
          "2: a step's rows go through the layers as two batches, the attention of one while the "
          "experts compute the other; 1: as one; auto: whichever was faster with as many rows");
ABSL_FLAG(std::string, trace_file, "",
          "Write what each step does when, in Chrome's trace format, to this file; %p in it is the "
          "process id");
ABSL_FLAG(absl::Duration, exchange_timeout, absl::Seconds(10),
          "An expert worker that does not answer for so long is lost");
ABSL_FLAG(absl::Duration, exchange_spin, absl::ZeroDuration(),
          "How long to look for an answer in shared memory before sleeping, at most 20us; useful "
          "where a core is free for it");
ABSL_FLAG(absl::Duration, expert_loss_timeout, absl::Seconds(60),
          "Sequences end with UNAVAILABLE when experts are missing for so long");
ABSL_FLAG(absl::Duration, drain_timeout, absl::Seconds(30),
          "After SIGTERM the step that runs may take so long");

namespace m1 {
namespace {

AttentionWorkerOptions OptionsFromFlags() {
  return {.model = {.directory = absl::GetFlag(FLAGS_model),
                    .activation_dtype = absl::GetFlag(FLAGS_activation_dtype),
                    .threads = absl::GetFlag(FLAGS_threads),
                    .device = absl::GetFlag(FLAGS_device),
                    .cpu_target = absl::GetFlag(FLAGS_cpu_target),
                    .weights = absl::GetFlag(FLAGS_weights),
                    .pin = absl::GetFlag(FLAGS_pin)},
          .expert_workers = absl::GetFlag(FLAGS_expert_workers),
          .max_sequences = absl::GetFlag(FLAGS_max_sequences),
          .kv_bytes = absl::GetFlag(FLAGS_kv_bytes),
          .max_context_tokens = absl::GetFlag(FLAGS_max_context_tokens),
          .max_step_tokens = absl::GetFlag(FLAGS_max_step_tokens),
          .max_replay_tokens = absl::GetFlag(FLAGS_max_replay_tokens),
          .target_itl = absl::GetFlag(FLAGS_target_itl),
          .batches_in_flight = absl::GetFlag(FLAGS_batches_in_flight),
          .trace_file = absl::GetFlag(FLAGS_trace_file),
          .exchange_timeout = absl::GetFlag(FLAGS_exchange_timeout),
          .exchange_spin = absl::GetFlag(FLAGS_exchange_spin),
          .expert_loss_timeout = absl::GetFlag(FLAGS_expert_loss_timeout),
          .drain_timeout = absl::GetFlag(FLAGS_drain_timeout)};
}

// All experts in this process, as `--expert_workers inproc` wants them.
struct LocalExperts {
  ExpertStore store;
  std::unique_ptr<ExpertFfn> executor;
};

ForwardOptions ForwardOptionsOf(const StepLimits& limits, DType activation_dtype) {
  return {.activation_dtype = activation_dtype,
          .max_rows = limits.max_step_tokens,
          .num_kv_blocks = limits.kv_blocks,
          .num_state_slots = limits.max_sequences};
}

class Worker {
 public:
  // Loads the model and starts the engine; the experts may come later.
  static absl::StatusOr<std::unique_ptr<Worker>> Create(const AttentionWorkerOptions& options,
                                                        const ServerMetricsOptions& metrics,
                                                        const Security* security);
  ~Worker() { readiness_.Set(nullptr); }

  absl::Status Serve(ServerOptions server_options);

 private:
  // `trace` may be null.
  Worker(const AttentionWorkerOptions& options, const Security* security,
         std::unique_ptr<ServerMetrics> metrics, std::unique_ptr<TraceFile> trace)
      : options_(options),
        security_(security),
        metrics_(std::move(metrics)),
        trace_(std::move(trace)),
        step_metrics_(metrics_->registry(), trace_.get()),
        heartbeat_(metrics_->watchdog()->Add("step loop")),
        spans_(heartbeat_, &step_metrics_),
        exchange_latency_(metrics_->registry()) {}
  absl::Status Load();
  // That the device holds the weights, and what is promised beside them.
  absl::Status CheckMemory() const;
  bool is_on_device() const { return model_.backend->device_kind() != DeviceKind::kCpu; }
  std::vector<int32_t> all_experts() const;
  absl::Status CreateExchange();
  void CreateDeviceTransport();  // for `nccl:` addresses
  absl::Status CreateEngine();
  // So that no request pays for a device's memory that grows.
  absl::Status WarmUp(ForwardPass* forward);
  void Drain(ServerRunner& runner);

  const AttentionWorkerOptions options_;
  const Security* const security_;
  DeviceFaultExit fault_exit_;
  WorkerModel model_;
  std::unique_ptr<DeviceWeights> device_weights_;
  AttentionWeights weights_;  // in the backend's memory
  StepLimits limits_;
  const std::unique_ptr<ServerMetrics> metrics_;
  std::unique_ptr<TraceFile> trace_;  // before what writes to it
  StepMetrics step_metrics_;
  Heartbeat* const heartbeat_;
  BeatingTrace spans_;
  ExchangeLatency exchange_latency_;
  std::unique_ptr<LocalExperts> local_experts_;
  Readiness readiness_;
  std::unique_ptr<DeviceTransport> device_transport_;  // may be null
  std::unique_ptr<ExpertExchange> transport_;          // of rows in the host's memory, for a device
  std::unique_ptr<ExpertExchange> exchange_;
  std::unique_ptr<Engine> engine_;
};

absl::StatusOr<std::unique_ptr<Worker>> Worker::Create(const AttentionWorkerOptions& options,
                                                       const ServerMetricsOptions& metrics,
                                                       const Security* security) {
  M1_ASSIGN_OR_RETURN(std::unique_ptr<ServerMetrics> server_metrics, ServerMetrics::Start(metrics));
  std::unique_ptr<TraceFile> trace;
  if (!options.trace_file.empty()) {
    M1_ASSIGN_OR_RETURN(trace, TraceFile::Create(options.trace_file, "m1-attention-worker"));
  }
  std::unique_ptr<Worker> worker(
      new Worker(options, security, std::move(server_metrics), std::move(trace)));
  M1_RETURN_IF_ERROR(worker->Load());
  M1_RETURN_IF_ERROR(worker->CreateExchange());
  M1_RETURN_IF_ERROR(worker->CreateEngine());
  return worker;
}

absl::Status Worker::Load() {
  M1_ASSIGN_OR_RETURN(model_, OpenWorkerModel(options_.model, [this](const absl::Status& fault) {
                        fault_exit_.End(fault);
                      }));
  M1_ASSIGN_OR_RETURN(limits_,
                      Limits(options_, model_.checkpoint->config(), model_.activation_dtype));
  M1_LOG(kInfo) << "attention worker model=" << options_.model.directory
                << " fingerprint=" << model_.identity.fingerprint
                << " weight_format=" << model_.identity.weight_format
                << " activation_dtype=" << model_.identity.activation_dtype
                << " backend=" << model_.backend->name()
                << " max_sequences=" << limits_.max_sequences << " kv_blocks=" << limits_.kv_blocks
                << " max_context_tokens=" << limits_.max_context_tokens
                << " max_step_tokens=" << limits_.max_step_tokens
                << " bytes=" << model_.checkpoint->attention_weight_bytes();
  metrics_->SetModel(IdentityLabels(model_.identity));
  M1_RETURN_IF_ERROR(CheckMemory());
  M1_ASSIGN_OR_RETURN(
      const WeightMemory memory,
      ChooseWeightMemory(options_.model, model_.checkpoint->attention_weight_bytes()));
  M1_RETURN_IF_ERROR(
      model_.checkpoint->PrefetchAttention(LogLoading(TerminationRequested), memory));
  device_weights_ = std::make_unique<DeviceWeights>(model_.backend.get());
  M1_ASSIGN_OR_RETURN(weights_, device_weights_->Add(model_.checkpoint->attention_weights()));
  return absl::OkStatus();
}

std::vector<int32_t> Worker::all_experts() const {
  std::vector<int32_t> experts(static_cast<size_t>(model_.checkpoint->config().num_experts));
  std::iota(experts.begin(), experts.end(), 0);
  return experts;
}

absl::Status Worker::CheckMemory() const {
  const ModelConfig& config = model_.checkpoint->config();
  const DType act = model_.activation_dtype;
  std::vector<MemoryNeed> needs = {
      {"weights", model_.checkpoint->attention_weight_bytes()},
      {"KV blocks (--kv_bytes)", limits_.kv_blocks * KvCache::BlockBytes(config, act)},
      {"states (--max_sequences)", limits_.max_sequences * LinearState::SlotBytes(config, act)},
      {"a step (--max_step_tokens)",
       ForwardPass::StepBytes(config, ForwardOptionsOf(limits_, act))}};
  if (options_.expert_workers == "inproc") {
    needs.push_back({"experts", model_.checkpoint->expert_weight_bytes(all_experts())});
  }
  return CheckDeviceMemory(model_.backend->AvailableBytes(), needs);
}

void Worker::CreateDeviceTransport() {
  if (!is_on_device()) return;
  absl::StatusOr<std::unique_ptr<DeviceTransport>> transport =
      m1::CreateDeviceTransport(model_.backend.get());
  if (transport.ok()) {
    device_transport_ = *std::move(transport);
  } else {
    M1_LOG(kWarning) << "no device links reason=\"" << transport.status().message() << "\"";
  }
}

absl::Status Worker::CreateExchange() {
  const ModelConfig& config = model_.checkpoint->config();
  if (options_.expert_workers != "inproc") {
    M1_ASSIGN_OR_RETURN(std::vector<std::string> addresses,
                        ParseAddressList(options_.expert_workers, /*allow_transport=*/true));
    if (std::any_of(addresses.begin(), addresses.end(), HasNcclPrefix)) CreateDeviceTransport();
    RemoteExchangeOptions exchange;
    exchange.addresses = std::move(addresses);
    exchange.peer.device_transport = device_transport_.get();
    exchange.peer.identity = model_.identity;
    exchange.peer.num_experts = config.num_experts;
    exchange.peer.hidden_size = config.hidden_size;
    exchange.peer.security = security_;
    exchange.peer.exchange_timeout = options_.exchange_timeout;
    exchange.spin = options_.exchange_spin;
    exchange.loss_timeout = options_.expert_loss_timeout;
    exchange.peer.observer = &exchange_latency_;
    exchange.heartbeat = heartbeat_;
    exchange.on_change = [this] { readiness_.Notify(); };
    M1_ASSIGN_OR_RETURN(exchange_, RemoteExchange::Create(exchange));
    if (is_on_device()) {
      transport_ = std::move(exchange_);
      auto staged = std::make_unique<StagedExchange>(model_.backend.get(), transport_.get());
      staged->Reserve(model_.activation_dtype, limits_.max_step_tokens,
                      config.num_experts_per_token, config.hidden_size);
      exchange_ = std::move(staged);
    }
    return absl::OkStatus();
  }
  const std::vector<int32_t> experts = all_experts();
  M1_ASSIGN_OR_RETURN(
      const WeightMemory memory,
      ChooseWeightMemory(options_.model, model_.checkpoint->expert_weight_bytes(experts)));
  M1_RETURN_IF_ERROR(
      model_.checkpoint->PrefetchExperts(experts, LogLoading(TerminationRequested), memory));
  M1_ASSIGN_OR_RETURN(ExpertStore store,
                      ExpertStore::Open(*model_.checkpoint, experts, device_weights_.get()));
  local_experts_ = std::unique_ptr<LocalExperts>(new LocalExperts{std::move(store), nullptr});
  // The engine's thread computes attention and experts by turns: one set of threads serves both.
  local_experts_->executor = std::make_unique<ExpertFfn>(
      &local_experts_->store, model_.backend.get(), model_.activation_dtype);
  exchange_ = std::make_unique<InprocExchange>(
      config.num_experts, std::vector<ExpertExecutor*>{local_experts_->executor.get()});
  return absl::OkStatus();
}

absl::Status Worker::CreateEngine() {
  ForwardOptions forward_options = ForwardOptionsOf(limits_, model_.activation_dtype);
  forward_options.trace = &spans_;
  auto forward =
      std::make_unique<ForwardPass>(model_.checkpoint->config(), weights_, model_.backend.get(),
                                    exchange_.get(), forward_options);
  M1_RETURN_IF_ERROR(WarmUp(forward.get()));
  engine_ =
      std::make_unique<Engine>(EngineOptions{.limits = limits_,
                                             .expert_loss_timeout = options_.expert_loss_timeout,
                                             .lanes = LaneMode(options_),
                                             .trace = &spans_,
                                             .heartbeat = heartbeat_},
                               std::move(forward), exchange_.get());
  return absl::OkStatus();
}

absl::Status Worker::WarmUp(ForwardPass* forward) {
  if (!is_on_device()) return absl::OkStatus();
  if (local_experts_ != nullptr) {
    M1_RETURN_IF_ERROR(local_experts_->executor->WarmUp(int64_t{limits_.max_step_tokens} *
                                                        forward->config().num_experts_per_token));
  }
  return forward->WarmUp(limits_.max_context_tokens);
}

absl::Status Worker::Serve(ServerOptions server_options) {
  server_options.on_serving = [this](bool serving) { metrics_->SetReady(serving); };
  server_options.metrics = metrics_->registry();
  server_options.watchdog = metrics_->watchdog();
  const std::unique_ptr<ScrapedMetrics> scraped =
      ScrapeAttentionWorker(metrics_->registry(), limits_, engine_.get(), exchange_.get());
  AttentionService service(ToProto(model_.identity), limits_, engine_.get(), exchange_.get());
  M1_ASSIGN_OR_RETURN(std::unique_ptr<ServerRunner> runner,
                      ServerRunner::Start(server_options, {&service}));
  fault_exit_.SetServer(runner.get());
  readiness_.Set([this, &runner] {
    runner->SetServing(exchange_->MissingExperts().empty() && !engine_->stats().draining);
    engine_->OnExpertsChanged();
  });
  readiness_.Notify();
  runner->WaitForSignal();
  Drain(*runner);
  readiness_.Set(nullptr);
  fault_exit_.SetServer(nullptr);
  return absl::OkStatus();
}

void Worker::Drain(ServerRunner& runner) {
  engine_->Drain();
  readiness_.Notify();  // not serving from here on
  const absl::Time deadline = absl::Now() + options_.drain_timeout;
  const auto busy = [this] {
    const EngineStats stats = engine_->stats();
    // Without experts nothing goes on: routers replay elsewhere what is left.
    return exchange_->MissingExperts().empty() &&
           (stats.used_sequences > 0 || stats.waiting_sequences > 0);
  };
  while (busy() && absl::Now() < deadline) absl::SleepFor(absl::Milliseconds(20));
  runner.Shutdown(absl::Seconds(1));
}

int Main() {
  if (absl::Status status = InitProcess(absl::GetFlag(FLAGS_log_level)); !status.ok()) {
    return ExitWith(status);
  }
  const AttentionWorkerOptions options = OptionsFromFlags();
  absl::Status checked = Validate(options);
  checked.Update(CheckFlagRange("port", absl::GetFlag(FLAGS_port), 0, 65535));
  if (!checked.ok()) return ExitWith(checked);
  const SecurityOptions security_options =
      SecurityFromFlags(Role::kAttentionWorker, absl::GetFlag(FLAGS_address));
  const absl::StatusOr<std::unique_ptr<Security>> security = Security::Create(security_options);
  if (!security.ok()) return ExitWith(security.status());
  const absl::StatusOr<ServerMetricsOptions> metrics =
      MetricsFromFlags("attention-worker", security_options);
  if (!metrics.ok()) return ExitWith(metrics.status());
  absl::StatusOr<std::unique_ptr<Worker>> worker =
      Worker::Create(options, *metrics, security->get());
  if (!worker.ok()) return ExitWith(worker.status());
  return ExitWith((*worker)->Serve({.address = absl::GetFlag(FLAGS_address),
                                    .port = absl::GetFlag(FLAGS_port),
                                    .security = security->get()}));
}

}  // namespace
}  // namespace m1

int main(int argc, char** argv) {
  absl::SetProgramUsageMessage(
      "Runs the attention layers of a MiniMax-M1 checkpoint.\n"
      "m1-attention-worker --port P --model DIR --expert_workers ADDR,...");
  m1::ParseFlags(argc, argv);
  return m1::Main();
}
