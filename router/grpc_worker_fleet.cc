#include "router/grpc_worker_fleet.h"

#include <algorithm>
#include <cstddef>
#include <utility>

#include "common/base/log.h"

namespace m1 {

WorkerFleet::WorkerFleet(WorkerFleetOptions options, Dispatcher* dispatcher)
    : options_(std::move(options)), dispatcher_(dispatcher) {}

WorkerFleet::~WorkerFleet() {
  watcher_.reset();
  for (size_t i = 0; i < streams().size(); ++i) Remove(i);
}

void WorkerFleet::Start() {
  watcher_ = std::make_unique<AddressWatcher>(
      options_.addresses, options_.resolve_interval, options_.resolver,
      [this](const std::vector<std::string>& addresses) { SetAddresses(addresses); });
}

std::vector<std::shared_ptr<WorkerStream>> WorkerFleet::streams() const {
  MutexLock lock(&mutex_);
  return streams_;
}

void WorkerFleet::SetAddresses(const std::vector<std::string>& addresses) {
  std::vector<std::string> added = addresses;
  const std::vector<std::shared_ptr<WorkerStream>> before = streams();
  for (size_t i = 0; i < before.size(); ++i) {
    if (before[i] == nullptr) continue;
    const auto it = std::find(added.begin(), added.end(), before[i]->address());
    if (it == added.end()) {
      M1_LOG(kInfo) << "event=worker_removed address=" << before[i]->address();
      Remove(i);
    } else {
      added.erase(it);
    }
  }
  for (const std::string& address : added) Add(address);
}

void WorkerFleet::Add(const std::string& address) {
  const std::vector<std::shared_ptr<WorkerStream>> before = streams();
  const auto index =
      static_cast<size_t>(std::find(before.begin(), before.end(), nullptr) - before.begin());
  const auto stream =
      std::make_shared<WorkerStream>(WorkerStreamOptions{.worker_index = static_cast<int>(index),
                                                         .address = address,
                                                         .router_id = options_.router_id,
                                                         .security = options_.security},
                                     dispatcher_);
  dispatcher_->SetLink(static_cast<int>(index), stream.get());
  stream->Start();
  MutexLock lock(&mutex_);
  if (index == streams_.size()) {
    streams_.push_back(stream);
  } else {
    streams_[index] = stream;
  }
}

void WorkerFleet::Remove(size_t index) {
  std::shared_ptr<WorkerStream> stream;
  {
    MutexLock lock(&mutex_);
    stream = std::exchange(streams_[index], nullptr);
  }
  if (stream == nullptr) return;
  dispatcher_->SetLink(static_cast<int>(index), nullptr);
  stream->Stop();  // somebody may still share it
}

}  // namespace m1
