#include "router/control_service.h"

#include <algorithm>
#include <cstddef>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/string_view.h"
#include "absl/time/clock.h"
#include "absl/time/time.h"

#include "common/rpc/grpc_status.h"
#include "common/text/utf8_stream.h"
#include "router/grpc_request.h"
#include "router/grpc_violations.h"
#include "router/worker_stream_messages.h"

namespace m1 {
namespace {

// A worker that hangs costs the caller this long.
constexpr absl::Duration kDescribeTimeout = absl::Milliseconds(500);

// Before the caller's own deadline.
constexpr absl::Duration kAnswerMargin = absl::Milliseconds(50);

absl::StatusOr<absl::Duration> ReadWait(const v1::DrainRequest& request) {
  Violations violations;
  const google::protobuf::Duration& wait = request.wait();
  constexpr int64_t kMostSeconds = 24 * 60 * 60;
  violations.Require(wait.seconds() >= 0 && wait.seconds() <= kMostSeconds && wait.nanos() >= 0 &&
                         wait.nanos() < 1000000000,
                     "wait", absl::StrCat(wait.seconds(), " s and ", wait.nanos(), " ns"),
                     "0 to 24 hours");
  if (absl::Status status = violations.ToStatus(); !status.ok()) return status;
  return FromProto(wait);
}

// What a worker said may be no UTF-8, which a string field must be.
std::string AsUtf8(absl::string_view text) {
  Utf8Stream stream;
  std::string utf8 = stream.Push(text);
  return utf8 + stream.End();
}

}  // namespace

ControlService::ControlService(Router* router)
    : dispatcher_(router->dispatcher()), registry_(router->registry()), fleet_(router->fleet()) {}

grpc::Status ControlService::GetLoad(grpc::ServerContext* /*context*/,
                                     const v1::GetLoadRequest* /*request*/,
                                     v1::GetLoadResponse* response) {
  const std::vector<std::shared_ptr<WorkerStream>> streams = fleet_->streams();
  const RouterSnapshot snapshot = dispatcher_->Snapshot();  // of these and any that came since
  response->set_queued_request_count(static_cast<int32_t>(snapshot.num_queued));
  response->set_running_request_count(static_cast<int32_t>(snapshot.num_running));
  response->set_queue_capacity(static_cast<int32_t>(snapshot.queue_capacity));
  response->set_draining(snapshot.is_draining);
  for (size_t i = 0; i < streams.size(); ++i) {
    if (streams[i] == nullptr) continue;
    const WorkerSnapshot& worker = snapshot.workers[i];
    v1::AttentionWorkerLoad* load = response->add_workers();
    load->set_address(streams[i]->address());
    load->set_ready(worker.is_ready);
    load->set_sequence_count(worker.num_sequences);
    load->set_outstanding_token_count(worker.outstanding_tokens);
    if (worker.limits) *load->mutable_limits() = ToProto(*worker.limits);
    const auto description = streams[i]->Describe(kDescribeTimeout);
    if (description.ok()) *load->mutable_load() = description->load();
  }
  return grpc::Status::OK;
}

grpc::Status ControlService::GetTopology(grpc::ServerContext* /*context*/,
                                         const v1::GetTopologyRequest* /*request*/,
                                         v1::GetTopologyResponse* response) {
  const std::vector<std::shared_ptr<WorkerStream>> streams = fleet_->streams();
  const RouterSnapshot snapshot = dispatcher_->Snapshot();
  for (size_t i = 0; i < streams.size(); ++i) {
    if (streams[i] == nullptr) continue;
    v1::AttentionWorkerTopology* worker = response->add_attention_workers();
    worker->set_address(streams[i]->address());
    worker->set_last_error(AsUtf8(snapshot.workers[i].last_error));
    auto description = streams[i]->Describe(kDescribeTimeout);
    if (description.ok()) {
      *worker->mutable_description() = *std::move(description);
    } else if (worker->last_error().empty()) {
      worker->set_last_error(AsUtf8(description.status().message()));
    }
  }
  return grpc::Status::OK;
}

grpc::Status ControlService::Abort(grpc::ServerContext* /*context*/,
                                   const v1::AbortRequest* request, v1::AbortResponse* response) {
  if (request->request_id().empty()) {
    Violations violations;
    violations.Add("request_id", "is absent or empty, must be the id of a request");
    return ToGrpcStatus(violations.ToStatus());
  }
  response->set_found(registry_->Abort(request->request_id()));
  return grpc::Status::OK;
}

grpc::Status ControlService::Drain(grpc::ServerContext* context, const v1::DrainRequest* request,
                                   v1::DrainResponse* response) {
  const absl::StatusOr<absl::Duration> wait = ReadWait(*request);
  if (!wait.ok()) return ToGrpcStatus(wait.status());
  dispatcher_->StopAdmission();
  const absl::Time deadline =
      std::min(absl::Now() + *wait, absl::FromChrono(context->deadline()) - kAnswerMargin);
  const size_t open =
      registry_->WaitUntilEmpty(deadline, [context] { return context->IsCancelled(); });
  response->set_in_flight_request_count(static_cast<int32_t>(open));
  return grpc::Status::OK;
}

}  // namespace m1
