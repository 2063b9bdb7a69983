#include "common/rpc/rpc_metrics.h"

#include <google/protobuf/descriptor.h>

#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "absl/status/status.h"
#include "absl/strings/match.h"
#include "absl/strings/str_split.h"
#include "absl/strings/string_view.h"
#include "absl/time/time.h"

namespace m1 {
namespace {

constexpr char kName[] = "m1_rpc_total";
constexpr char kHelp[] =
    "Calls that ended, by method and gRPC code; health and reflection are not among them.";

// "/m1.v1.Control/GetLoad" -> "m1.v1.Control/GetLoad" if a service of ours has it. Clients may
// call whatever they like.
std::string MethodLabel(absl::string_view method) {
  const std::vector<std::string> parts = absl::StrSplit(method, '/');
  if (parts.size() != 3 || !parts[0].empty() || !absl::StartsWith(parts[1], "m1.v1.")) {
    return "other";
  }
  const google::protobuf::ServiceDescriptor* service =
      google::protobuf::DescriptorPool::generated_pool()->FindServiceByName(parts[1]);
  const bool is_known = service != nullptr && service->FindMethodByName(parts[2]) != nullptr;
  return is_known ? std::string(method.substr(1)) : "other";
}

class CallCounter final : public grpc::experimental::Interceptor {
 public:
  CallCounter(MetricsRegistry* registry, std::string method)
      : registry_(registry), method_(std::move(method)) {}
  ~CallCounter() override {
    registry_
        ->AddCounter(kName, kHelp, {{"method", method_}, {"code", absl::StatusCodeToString(code_)}})
        .Increment();
  }

  void Intercept(grpc::experimental::InterceptorBatchMethods* methods) override {
    if (methods->QueryInterceptionHookPoint(
            grpc::experimental::InterceptionHookPoints::PRE_SEND_STATUS)) {
      code_ = static_cast<absl::StatusCode>(methods->GetSendStatus().error_code());
    }
    methods->Proceed();
  }

 private:
  MetricsRegistry* const registry_;
  const std::string method_;
  absl::StatusCode code_ = absl::StatusCode::kCancelled;  // until a status is sent
};

class CallCounters final : public grpc::experimental::ServerInterceptorFactoryInterface {
 public:
  explicit CallCounters(MetricsRegistry* registry) : registry_(registry) {
    // There from the start, so that it can be asked for.
    registry->AddCounter(kName, kHelp, {{"method", "other"}, {"code", "UNIMPLEMENTED"}});
  }

  // gRPC owns what is returned; null: the call is not looked at.
  grpc::experimental::Interceptor* CreateServerInterceptor(
      grpc::experimental::ServerRpcInfo* info) override {
    const absl::string_view method = info->method();
    if (absl::StartsWith(method, "/grpc.health.") ||
        absl::StartsWith(method, "/grpc.reflection.")) {
      return nullptr;
    }
    return new CallCounter(registry_, MethodLabel(method));
  }

 private:
  MetricsRegistry* const registry_;
};

std::vector<MetricSample> Denied(const SecurityStats& stats) {
  std::vector<MetricSample> samples;
  for (size_t i = 0; i < kNumDenials; ++i) {
    samples.push_back({{{"reason", std::string(DenialName(static_cast<Denial>(i)))}},
                       static_cast<double>(stats.num_denied[i])});
  }
  return samples;
}

std::vector<MetricSample> Ends(std::optional<absl::Time> end) {
  if (!end.has_value()) return {};
  return {{{}, absl::ToDoubleSeconds(*end - absl::UnixEpoch())}};
}

std::vector<MetricSample> Reloads(const ReloadStats& stats) {
  return {{{{"result", "ok"}}, static_cast<double>(stats.num_taken)},
          {{{"result", "error"}}, static_cast<double>(stats.num_failed)}};
}

}  // namespace

std::unique_ptr<grpc::experimental::ServerInterceptorFactoryInterface> CountCalls(
    MetricsRegistry* registry) {
  return std::make_unique<CallCounters>(registry);
}

std::unique_ptr<ScrapedMetrics> ScrapeSecurity(MetricsRegistry* registry,
                                               const Security* security) {
  auto metrics = std::make_unique<ScrapedMetrics>(registry);
  const auto stats = std::make_shared<SecurityStats>();  // of the scrape that runs
  metrics->BeforeEach([security, stats] { *stats = security->stats(); });
  metrics->AddCounters("m1_rpc_denied_total",
                       "Calls without the token, or the certificate's role, that they need.",
                       [stats] { return Denied(*stats); });
  metrics->AddGauges("m1_tls_certificate_expiry_timestamp_seconds",
                     "When the certificate ends, Unix time; absent without TLS.",
                     [stats] { return Ends(stats->certificate_expires_at); });
  metrics->AddGauges("m1_tls_authority_expiry_timestamp_seconds",
                     "When the authority of the certificate ends, Unix time; absent without TLS.",
                     [stats] { return Ends(stats->authority_expires_at); });
  metrics->AddCounters("m1_tls_reloads_total",
                       "Changes of certificate, key or authorities: taken, or not.",
                       [stats] { return Reloads(stats->tls); });
  metrics->AddGauge("m1_tls_files_rejected",
                    "1 while the files of the certificate are not those in use.",
                    [stats] { return stats->tls.is_rejected ? 1 : 0; });
  metrics->AddCounters("m1_token_reloads_total", "Changes of the file of tokens: taken, or not.",
                       [stats] { return Reloads(stats->tokens); });
  metrics->AddGauge("m1_token_file_rejected", "1 while the file of tokens is not the one in use.",
                    [stats] { return stats->tokens.is_rejected ? 1 : 0; });
  metrics->Publish();
  return metrics;
}

}  // namespace m1
