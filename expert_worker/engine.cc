#include "expert_worker/engine.h"

#include <optional>
#include <set>
#include <utility>

#include "absl/time/clock.h"

#include "common/base/thread_name.h"

namespace m1 {

Engine::Engine(ExpertExecutor* executor, const EngineOptions& options, JobSource* source)
    : executor_(executor),
      options_(options),
      source_(source),
      queue_(options.max_queued_jobs),
      own_doorbell_(&own_doorbell_words_),
      doorbell_(source == nullptr ? &own_doorbell_ : source->doorbell()),
      thread_([this] { Loop(); }) {}

Engine::~Engine() { Stop(); }

bool Engine::TrySubmit(EngineJob&& job) {
  if (!queue_.TryPush(std::move(job))) return false;
  doorbell_->Ring();
  return true;
}

EngineStats Engine::stats() const { return {num_jobs_, num_runs_, num_rows_, num_source_jobs_}; }

void Engine::Stop() {
  queue_.Close();
  stopping_ = true;
  doorbell_->Ring();
  if (thread_.joinable()) thread_.join();
}

void Engine::Loop() {
  NameThread("batch-loop");
  while (true) {
    // In this order: nothing is queued once it stops.
    const bool stopping = stopping_;
    const uint32_t seen = doorbell_->count();
    Take();
    if (!pending_.empty()) {
      Beat();
      Gather();
      Run(TakeRun());
    } else if (stopping) {
      Rest();
      return;
    } else {
      Rest();
      doorbell_->Wait(seen, absl::InfiniteFuture(), options_.spin);
    }
  }
}

void Engine::Beat() {
  if (options_.heartbeat != nullptr) options_.heartbeat->Beat();
}

void Engine::Rest() {
  if (options_.heartbeat != nullptr) options_.heartbeat->Rest();
}

void Engine::Take() {
  while (pending_.size() < options_.max_queued_jobs) {
    std::optional<EngineJob> job = queue_.TryPop();
    if (!job.has_value()) break;
    AddPending(std::move(*job));
  }
  if (source_ == nullptr || stopping_ || pending_.size() >= options_.max_queued_jobs) return;
  source_->TakeJobs(options_.max_queued_jobs - pending_.size(), &taken_);
  num_source_jobs_ += static_cast<int64_t>(taken_.size());
  for (EngineJob& job : taken_) AddPending(std::move(job));
  taken_.clear();
}

void Engine::AddPending(EngineJob job) {
  active_clients_[job.client] = absl::Now();
  pending_.push_back(std::move(job));
}

bool Engine::AllActiveArePending() {
  const absl::Time limit = absl::Now() - options_.active_time;
  std::set<int64_t> pending;
  for (const EngineJob& job : pending_) pending.insert(job.client);
  for (auto it = active_clients_.begin(); it != active_clients_.end();) {
    if (!pending.contains(it->first)) {
      if (it->second >= limit) return false;
      it = active_clients_.erase(it);
    } else {
      ++it;
    }
  }
  return true;
}

void Engine::Gather() {
  if (active_clients_.size() < 2) return;
  const ScopedSpan span(options_.trace, {.name = "gather", .layer = pending_.front().work.layer});
  const absl::Time deadline = absl::Now() + options_.gather_time;
  while (pending_.size() < options_.max_queued_jobs && !AllActiveArePending()) {
    const uint32_t seen = doorbell_->count();
    const size_t before = pending_.size();
    Take();
    if (pending_.size() > before) continue;
    if (stopping_ || absl::Now() >= deadline) return;
    doorbell_->Wait(seen, deadline, options_.spin);
  }
}

std::vector<EngineJob> Engine::TakeRun() {
  const int32_t layer = pending_.front().work.layer;
  std::vector<EngineJob> run;
  std::vector<EngineJob> rest;
  int64_t num_rows = 0;
  for (EngineJob& job : pending_) {
    const int64_t job_rows = job.work.rows.dim(0);
    const bool fits = run.empty() || num_rows + job_rows <= options_.max_run_rows;
    if (job.work.layer == layer && fits) {
      num_rows += job_rows;
      run.push_back(std::move(job));
    } else {
      rest.push_back(std::move(job));
    }
  }
  pending_ = std::move(rest);
  ++num_runs_;
  num_jobs_ += static_cast<int64_t>(run.size());
  num_rows_ += num_rows;
  return run;
}

void Engine::Run(std::vector<EngineJob> run) {
  std::vector<ExpertJob> jobs;
  jobs.reserve(run.size());
  for (const EngineJob& job : run) jobs.push_back(job.work);
  absl::Status status;
  {
    int64_t num_rows = 0;
    for (const ExpertJob& job : jobs) num_rows += job.rows.dim(0);
    const ScopedSpan span(options_.trace,
                          {.name = "experts", .layer = jobs.front().layer, .rows = num_rows});
    status = executor_->Execute(jobs);
  }
  for (EngineJob& job : run) std::move(job.done)(status);
}

}  // namespace m1
