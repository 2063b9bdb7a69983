// m1-router: the public gateway. See README.md; flags are documented in options.h.
#include <google/protobuf/stubs/logging.h>

#include <filesystem>
#include <optional>
#include <string>
#include <utility>

#include "absl/flags/flag.h"
#include "absl/flags/usage.h"
#include "absl/strings/str_join.h"
#include "absl/time/time.h"

#include "common/base/log.h"
#include "common/base/status_macros.h"
#include "common/metrics/server_metrics.h"
#include "common/rpc/channel.h"
#include "common/rpc/metrics_flags.h"
#include "common/rpc/process.h"
#include "common/security/security.h"
#include "common/security/security_flags.h"
#include "router/control_service.h"
#include "router/grpc_fleet_metrics.h"
#include "router/grpc_router.h"
#include "router/inference_service.h"
#include "router/options.h"

ABSL_FLAG(std::string, address, "127.0.0.1", "Address to listen on: IP, host name or unix:PATH.");
ABSL_FLAG(int, port, 0, "Port to listen on; 0 picks a free one.");
ABSL_FLAG(std::string, model, "", "Directory with config.json and the tokenizer. Required.");
ABSL_FLAG(
    std::string, attention_workers, "",
    "Addresses of the attention workers, separated by commas; dns:///NAME:PORT stands for all "
    "addresses of the name, resolved again every 5 s. Required.");
ABSL_FLAG(int, queue_size, 1024, "Requests that may wait for a worker, 1..1000000.");
ABSL_FLAG(
    absl::Duration, priority_ageing, absl::Minutes(1),
    "What a point of priority is worth: a waiting request goes before those that came so much "
    "later with a point more.");
ABSL_FLAG(int, max_message_bytes, 64 << 20,
          "Largest message received, and largest answer of Tokenize and Detokenize, in bytes.");
ABSL_FLAG(absl::Duration, worker_loss_timeout, absl::Seconds(60),
          "How long a request waits while no worker is ready.");
ABSL_FLAG(absl::Duration, drain_timeout, absl::Seconds(30),
          "How long SIGTERM waits for running requests.");
ABSL_FLAG(absl::Duration, slow_reader_timeout, absl::Seconds(30),
          "How long a client may leave its stream unread.");
ABSL_FLAG(int, repetition_run_tokens, 3000,
          "So many tokens in a row, each likelier than --repetition_probability, end an answer; 0: "
          "off.");
ABSL_FLAG(double, repetition_probability, 0.99, "See --repetition_run_tokens.");
ABSL_FLAG(
    std::string, token_file, "",
    "File of lines NAME SHA256HEX, or NAME SHA256HEX admin for m1.v1.Control: clients must send "
    "the metadata authorization: Bearer TOKEN "
    "with a token of such a hash; read again when it changes. A file without lines lets nobody in; "
    "not set: no tokens are asked for");
ABSL_FLAG(std::string, log_level, "info", "error, warning, info, debug or trace.");

namespace m1 {
namespace {

constexpr char kServerVersion[] = "0.1.0";

// "/models/MiniMax-M1/" -> "MiniMax-M1"
std::string LastPart(const std::string& directory) {
  const std::filesystem::path path = std::filesystem::path(directory).lexically_normal();
  return (path.has_filename() ? path.filename() : path.parent_path().filename()).string();
}

absl::StatusOr<RouterOptions> OptionsFromFlags() {
  RouterOptions options{.address = absl::GetFlag(FLAGS_address),
                        .port = absl::GetFlag(FLAGS_port),
                        .model_directory = absl::GetFlag(FLAGS_model),
                        .attention_workers = {},
                        .queue_size = absl::GetFlag(FLAGS_queue_size),
                        .priority_ageing = absl::GetFlag(FLAGS_priority_ageing),
                        .max_message_bytes = absl::GetFlag(FLAGS_max_message_bytes),
                        .worker_loss_timeout = absl::GetFlag(FLAGS_worker_loss_timeout),
                        .drain_timeout = absl::GetFlag(FLAGS_drain_timeout),
                        .repetition_run_tokens = absl::GetFlag(FLAGS_repetition_run_tokens),
                        .repetition_probability = absl::GetFlag(FLAGS_repetition_probability),
                        .slow_reader_timeout = absl::GetFlag(FLAGS_slow_reader_timeout)};
  auto workers = ParseAddressList(absl::GetFlag(FLAGS_attention_workers));
  if (!workers.ok()) return AddContext(workers.status(), "--attention_workers");
  options.attention_workers = *std::move(workers);
  M1_RETURN_IF_ERROR(options.Validate());
  return options;
}

absl::StatusOr<std::unique_ptr<ServerMetrics>> StartMetrics(const SecurityOptions& security) {
  M1_ASSIGN_OR_RETURN(const ServerMetricsOptions metrics, MetricsFromFlags("router", security));
  return ServerMetrics::Start(metrics);
}

// Whatever is wrong with the files of the model is DataLoss: exit code 3.
absl::Status AsModelError(const absl::Status& status) {
  return absl::DataLossError(absl::StrCat("--model: ", status.message()));
}

int Run() {
  absl::StatusOr<RouterOptions> options = OptionsFromFlags();
  if (!options.ok()) return ExitWith(options.status());
  SecurityOptions security_options = SecurityFromFlags(Role::kRouter, options->address);
  security_options.token_file = absl::GetFlag(FLAGS_token_file);
  const absl::StatusOr<std::unique_ptr<Security>> security = Security::Create(security_options);
  if (!security.ok()) return ExitWith(security.status());
  M1_LOG(kInfo) << "event=start model=" << options->model_directory
                << " attention_workers=" << absl::StrJoin(options->attention_workers, ",")
                << " queue_size=" << options->queue_size
                << " priority_ageing=" << absl::FormatDuration(options->priority_ageing)
                << " max_message_bytes=" << options->max_message_bytes
                << " worker_loss_timeout=" << absl::FormatDuration(options->worker_loss_timeout)
                << " drain_timeout=" << absl::FormatDuration(options->drain_timeout)
                << " repetition_run_tokens=" << options->repetition_run_tokens
                << " repetition_probability=" << options->repetition_probability
                << " slow_reader_timeout=" << absl::FormatDuration(options->slow_reader_timeout);
  const absl::StatusOr<std::unique_ptr<ServerMetrics>> metrics = StartMetrics(security_options);
  if (!metrics.ok()) return ExitWith(metrics.status());
  absl::StatusOr<std::unique_ptr<Vocabulary>> vocabulary =
      Vocabulary::Load(options->model_directory);
  if (!vocabulary.ok()) return ExitWith(AsModelError(vocabulary.status()));
  RouterMetrics router_metrics((*metrics)->registry());
  std::optional<InferenceService> inference;
  std::optional<ControlService> control;
  Router router(*options, *std::move(vocabulary),
                {.security = security->get(),
                 .on_serving = [&metrics](bool serving) { (*metrics)->SetReady(serving); },
                 .metrics = (*metrics)->registry(),
                 .watchdog = (*metrics)->watchdog()});
  const std::unique_ptr<ScrapedMetrics> scraped =
      ScrapeRouter((*metrics)->registry(), router.dispatcher(), router.fleet());
  inference.emplace(InferenceServiceOptions{.model_name = LastPart(options->model_directory),
                                            .server_version = kServerVersion,
                                            .slow_reader_timeout = options->slow_reader_timeout,
                                            .max_answer_bytes = options->max_message_bytes,
                                            .metrics = &router_metrics},
                    &router);
  control.emplace(&router);
  const absl::Status served = router.Serve({&*inference, &*control});
  if (!served.ok()) return ExitWith(served);
  WaitForTerminationSignal();
  router.Stop();
  return 0;
}

}  // namespace
}  // namespace m1

int main(int argc, char** argv) {
  absl::SetProgramUsageMessage(
      "m1-router --model DIR --attention_workers ADDRESS,... [--port PORT]");
  m1::ParseFlags(argc, argv);
  const absl::Status status = m1::InitProcess(absl::GetFlag(FLAGS_log_level));
  if (!status.ok()) return m1::ExitWith(status);
  // A client's malformed request is the client's news, not a line in our log.
  google::protobuf::SetLogHandler(nullptr);
  return m1::Run();
}
