#include "router/call_registry.h"

#include <utility>

#include "absl/strings/str_cat.h"

namespace m1 {

absl::Status CallRegistry::Add(const std::string& request_id, std::shared_ptr<LiveCall> call) {
  MutexLock lock(&mutex_);
  if (!calls_.emplace(request_id, std::move(call)).second) {
    return absl::AlreadyExistsError(
        absl::StrCat("request_id \"", request_id, "\" is in flight already"));
  }
  return absl::OkStatus();
}

void CallRegistry::Remove(const std::string& request_id) {
  MutexLock lock(&mutex_);
  calls_.erase(request_id);
}

bool CallRegistry::Abort(const std::string& request_id) {
  std::shared_ptr<LiveCall> call;
  {
    MutexLock lock(&mutex_);
    const auto it = calls_.find(request_id);
    if (it == calls_.end()) return false;
    call = it->second;
  }
  call->Abort();
  return true;
}

void CallRegistry::CheckReaders(absl::Time now) {
  std::vector<std::shared_ptr<LiveCall>> calls;
  {
    MutexLock lock(&mutex_);
    calls.reserve(calls_.size());
    for (const auto& entry : calls_) calls.push_back(entry.second);
  }
  for (const std::shared_ptr<LiveCall>& call : calls) call->CheckReader(now);
}

size_t CallRegistry::size() const {
  MutexLock lock(&mutex_);
  return calls_.size();
}

}  // namespace m1
