#include "router/dispatcher.h"

#include <utility>

#include "common/base/log.h"

namespace m1 {

Dispatcher::Dispatcher(const SchedulerOptions& options, const Clock* clock,
                       std::function<void(bool)> on_ready_change)
    : clock_(clock),
      on_ready_change_(std::move(on_ready_change)),
      links_(static_cast<size_t>(options.num_workers), nullptr),
      scheduler_(options, this),
      last_errors_(static_cast<size_t>(options.num_workers)),
      mismatched_(static_cast<size_t>(options.num_workers)) {}

void Dispatcher::SetLink(int worker_index, WorkerLink* link) {
  const auto index = static_cast<size_t>(worker_index);
  MutexLock lock(&mutex_);
  if (index >= links_.size()) {
    links_.resize(index + 1, nullptr);
    last_errors_.resize(index + 1);
    mismatched_.resize(index + 1);
  }
  links_[index] = link;
  if (link == nullptr) return;
  last_errors_[index] = "not connected yet";
  mismatched_[index] = false;
  scheduler_.AddWorker(worker_index);
}

absl::StatusOr<int64_t> Dispatcher::Submit(
    std::shared_ptr<const GenerationRequest> request,
    const std::vector<std::shared_ptr<SequenceSink>>& sinks) {
  MutexLock lock(&mutex_);
  if (is_draining_) return absl::UnavailableError("the router is draining");
  return scheduler_.Submit(std::move(request), sinks, clock_->Now());
}

absl::Duration Dispatcher::AdviseRetry() {
  MutexLock lock(&mutex_);
  return scheduler_.AdviseRetry(clock_->Now());
}

void Dispatcher::Cancel(int64_t id) {
  MutexLock lock(&mutex_);
  scheduler_.Cancel(id);
}

bool Dispatcher::Abort(int64_t id) {
  MutexLock lock(&mutex_);
  return scheduler_.Abort(id, clock_->Now());
}

void Dispatcher::Resume(int64_t id) {
  MutexLock lock(&mutex_);
  scheduler_.Resume(id, clock_->Now());
}

absl::Status Dispatcher::OnWelcome(int worker_index, const WorkerWelcome& welcome) {
  MutexLock lock(&mutex_);
  const absl::Status status = scheduler_.OnWelcome(worker_index, welcome, clock_->Now());
  last_errors_[static_cast<size_t>(worker_index)] = std::string(status.message());
  mismatched_[static_cast<size_t>(worker_index)] = absl::IsFailedPrecondition(status);
  TellReadiness();
  return status;
}

void Dispatcher::OnStep(int worker_index, WorkerEvents events) {
  MutexLock lock(&mutex_);
  scheduler_.OnStep(worker_index, std::move(events), clock_->Now());
  TellReadiness();
}

void Dispatcher::OnLost(int worker_index, const absl::Status& status) {
  MutexLock lock(&mutex_);
  if (scheduler_.worker(worker_index).is_ready()) ++num_disconnects_;
  scheduler_.OnLost(worker_index, clock_->Now());
  last_errors_[static_cast<size_t>(worker_index)] = std::string(status.message());
  TellReadiness();
}

void Dispatcher::Tick() {
  MutexLock lock(&mutex_);
  scheduler_.Tick(clock_->Now());
}

void Dispatcher::StopAdmission() {
  MutexLock lock(&mutex_);
  is_draining_ = true;
  TellReadiness();
}

void Dispatcher::FailAll(const absl::Status& status) {
  MutexLock lock(&mutex_);
  scheduler_.FailAll(status);
}

RouterSnapshot Dispatcher::Snapshot() const {
  MutexLock lock(&mutex_);
  RouterSnapshot snapshot;
  snapshot.num_queued = scheduler_.num_queued();
  snapshot.num_running = scheduler_.num_running();
  snapshot.num_in_flight = scheduler_.num_in_flight();
  snapshot.queue_capacity = scheduler_.queue_capacity();
  snapshot.num_preempted = scheduler_.num_preempted();
  snapshot.num_lost = scheduler_.num_lost();
  snapshot.num_disconnects = num_disconnects_;
  snapshot.is_draining = is_draining_;
  snapshot.identity = scheduler_.fleet_identity();
  snapshot.max_sequence_tokens = scheduler_.max_sequence_tokens();
  for (int i = 0; i < scheduler_.num_workers(); ++i) {
    const WorkerState& worker = scheduler_.worker(i);
    WorkerSnapshot& to = snapshot.workers.emplace_back();
    to.is_ready = worker.is_ready();
    if (worker.limits.max_sequences > 0) to.limits = worker.limits;
    to.num_sequences = static_cast<int32_t>(worker.running.size());
    to.outstanding_tokens = worker.outstanding_tokens;
    to.last_error = last_errors_[static_cast<size_t>(i)];
    to.is_mismatched = mismatched_[static_cast<size_t>(i)];
  }
  return snapshot;
}

void Dispatcher::Send(int worker_index, WorkerCommand command) {
  WorkerLink* link = links_[static_cast<size_t>(worker_index)];
  if (link != nullptr) link->Send(std::move(command));  // else its loss is about to be reported
}

void Dispatcher::TellReadiness() {
  const bool is_ready = !is_draining_ && scheduler_.any_worker_ready();
  if (is_ready == was_ready_) return;
  was_ready_ = is_ready;
  M1_LOG(kInfo) << "event=" << (is_ready ? "serving" : "not_serving");
  on_ready_change_(is_ready);
}

}  // namespace m1
