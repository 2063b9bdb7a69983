#include "tools/m1/load_client.h"

#include <algorithm>
#include <atomic>
#include <chrono>
#include <thread>
#include <utility>

#include "absl/strings/str_cat.h"
#include "absl/time/clock.h"

#include "common/base/mutex.h"
#include "common/base/status_macros.h"
#include "common/rpc/grpc_status.h"

namespace m1 {
namespace {

using Clock = std::chrono::steady_clock;

// What the threads of one run share.
struct SharedRun {
  double Now() const { return std::chrono::duration<double>(Clock::now() - begin).count(); }

  const Clock::time_point begin = Clock::now();
  std::atomic<int64_t> num_done = 0;
  std::atomic<int64_t> num_tokens = 0;
  Mutex mutex;
  CondVar changed;
  int64_t num_running ABSL_GUARDED_BY(mutex) = 0;
  bool finished ABSL_GUARDED_BY(mutex) = false;
};

v1::GenerateRequest MakeRequest(const PlannedRequest& planned, const LoadOptions& options,
                                uint64_t index) {
  v1::GenerateRequest request;
  request.mutable_token_ids()->mutable_ids()->Add(planned.prompt.begin(), planned.prompt.end());
  request.mutable_sampling()->set_temperature(static_cast<float>(options.temperature));
  request.mutable_sampling()->set_seed(options.seed + index);
  request.mutable_stopping()->set_max_new_tokens(static_cast<int32_t>(planned.output_tokens));
  request.mutable_stopping()->set_ignore_eos(options.ignore_eos);
  return request;
}

void Send(const Connection& connection, v1::Inference::Stub* stub,
          const v1::GenerateRequest& request, absl::Duration timeout, SharedRun* run,
          RequestRecord* record) {
  grpc::ClientContext context;
  connection.AddToken(&context);
  context.set_deadline(absl::ToChronoTime(absl::Now() + timeout));
  record->start_s = run->Now();
  record->prompt_tokens = request.token_ids().ids_size();
  const auto reader = stub->Generate(&context, request);
  v1::GenerateResponse response;
  bool finished = false;
  while (reader->Read(&response)) {
    finished = finished || response.has_finish();
    const int64_t count = response.delta().tokens_size();
    if (count == 0) continue;
    record->events.push_back({run->Now(), count});
    run->num_tokens += count;
  }
  const grpc::Status status = reader->Finish();
  record->end_s = run->Now();
  if (!status.ok()) {
    record->error = FromGrpcStatus(status).ToString();
  } else if (!finished || record->events.empty()) {
    record->error = "the stream ended without an answer";
  }
}

// Calls `on_progress` until the run is finished.
void ShowProgress(SharedRun* run, const std::function<void(const LoadProgress&)>& on_progress) {
  MutexLock lock(&run->mutex);
  while (!run->finished) {
    on_progress({run->num_done, run->num_running, run->num_tokens, run->Now()});
    run->changed.WaitUntil(&run->mutex, absl::Now() + absl::Milliseconds(100));
  }
}

}  // namespace

LoadClient::LoadClient(Connection connection, const LoadOptions& options)
    : connection_(std::move(connection)), options_(options) {
  for (int i = 0; i < options.num_connections; ++i) {
    stubs_.push_back(v1::Inference::NewStub(connection_.NewChannel()));
  }
}

absl::StatusOr<v1::GetModelInfoResponse> LoadClient::ModelInfo(absl::Duration timeout) {
  v1::GetModelInfoResponse response;
  for (const auto& stub : stubs_) {  // all: later requests find their connection made
    grpc::ClientContext context;
    connection_.AddToken(&context);
    context.set_deadline(absl::ToChronoTime(absl::Now() + timeout));
    context.set_wait_for_ready(true);
    const grpc::Status status = stub->GetModelInfo(&context, v1::GetModelInfoRequest(), &response);
    if (!status.ok()) return FromGrpcStatus(status);
  }
  return response;
}

std::vector<RequestRecord> LoadClient::Run(
    const std::vector<PlannedRequest>& plan,
    const std::function<void(const LoadProgress&)>& on_progress, double* duration_s) {
  std::vector<RequestRecord> records(plan.size());
  std::vector<v1::GenerateRequest> requests;
  for (size_t i = 0; i < plan.size(); ++i) requests.push_back(MakeRequest(plan[i], options_, i));
  SharedRun run;
  std::thread progress([&] { ShowProgress(&run, on_progress); });
  std::vector<std::thread> threads;
  for (size_t i = 0; i < plan.size(); ++i) {
    std::this_thread::sleep_until(run.begin +
                                  std::chrono::duration_cast<Clock::duration>(
                                      std::chrono::duration<double>(plan[i].arrival_s)));
    {
      MutexLock lock(&run.mutex);
      while (options_.max_concurrency > 0 && run.num_running >= options_.max_concurrency) {
        run.changed.Wait(&run.mutex);
      }
      ++run.num_running;
    }
    threads.emplace_back([&, i] {
      Send(connection_, stubs_[i % stubs_.size()].get(), requests[i], options_.timeout, &run,
           &records[i]);
      ++run.num_done;
      MutexLock lock(&run.mutex);
      --run.num_running;
      run.changed.SignalAll();
    });
  }
  for (std::thread& thread : threads) thread.join();
  *duration_s = run.Now();
  {
    MutexLock lock(&run.mutex);
    run.finished = true;
    run.changed.SignalAll();
  }
  progress.join();
  return records;
}

}  // namespace m1
