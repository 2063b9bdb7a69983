#include "router/call_registry.h"

#include <utility>

#include "absl/strings/str_cat.h"
#include "absl/time/clock.h"

namespace m1 {
namespace {

constexpr absl::Duration kPollInterval = absl::Milliseconds(20);

}  // namespace

absl::Status CallRegistry::Add(const std::string& request_id, std::shared_ptr<LiveCall> call) {
  MutexLock lock(&mutex_);
  if (!by_id_.emplace(request_id, call).second) {
    return absl::AlreadyExistsError(
        absl::StrCat("request_id \"", request_id, "\" is in flight already"));
  }
  const LiveCall* key = call.get();
  open_.emplace(key, std::move(call));
  return absl::OkStatus();
}

void CallRegistry::ReleaseId(const std::string& request_id, const LiveCall* call) {
  MutexLock lock(&mutex_);
  const auto it = by_id_.find(request_id);
  if (it != by_id_.end() && it->second.get() == call) by_id_.erase(it);
}

void CallRegistry::Remove(const std::string& request_id, const LiveCall* call) {
  ReleaseId(request_id, call);
  MutexLock lock(&mutex_);
  open_.erase(call);
}

bool CallRegistry::Abort(const std::string& request_id) {
  std::shared_ptr<LiveCall> call;
  {
    MutexLock lock(&mutex_);
    const auto it = by_id_.find(request_id);
    if (it == by_id_.end()) return false;
    call = it->second;
  }
  call->Abort();
  return true;
}

void CallRegistry::CheckReaders(absl::Time now) {
  std::vector<std::shared_ptr<LiveCall>> calls;
  {
    MutexLock lock(&mutex_);
    calls.reserve(open_.size());
    for (const auto& entry : open_) calls.push_back(entry.second);
  }
  for (const std::shared_ptr<LiveCall>& call : calls) call->CheckReader(now);
}

size_t CallRegistry::size() const {
  MutexLock lock(&mutex_);
  return open_.size();
}

size_t CallRegistry::WaitUntilEmpty(absl::Time deadline,
                                    const std::function<bool()>& gives_up) const {
  while (size() > 0 && absl::Now() < deadline && !(gives_up && gives_up())) {
    absl::SleepFor(kPollInterval);
  }
  return size();
}

}  // namespace m1
