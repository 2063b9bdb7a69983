#include "common/nccl/reaper.h"

#include <utility>

namespace m1::nccl {

Reaper::~Reaper() {
  std::list<Job> jobs;
  {
    MutexLock lock(&mutex_);
    jobs.swap(jobs_);
  }
  for (Job& job : jobs) job.thread.join();
}

void Reaper::End(std::unique_ptr<Channel> channel, std::shared_ptr<LinkMemory> memory) {
  if (channel == nullptr) return;
  MutexLock lock(&mutex_);
  JoinDone();
  Job& job = jobs_.emplace_back();
  job.thread =
      std::thread([this, &job, channel = std::move(channel), memory = std::move(memory)]() mutable {
        channel.reset();
        memory.reset();
        MutexLock done_lock(&mutex_);
        job.is_done = true;
      });
}

void Reaper::JoinDone() {
  for (auto job = jobs_.begin(); job != jobs_.end();) {
    if (!job->is_done) {
      ++job;
      continue;
    }
    job->thread.join();
    job = jobs_.erase(job);
  }
}

}  // namespace m1::nccl
