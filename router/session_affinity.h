// Which worker served a session last.
#pragma once

#include <cstddef>
#include <cstdint>
#include <list>
#include <optional>
#include <string>
#include <utility>

#include "absl/container/flat_hash_map.h"
#include "absl/strings/string_view.h"

namespace m1 {

// Remembers a bounded number of sessions, those used last. Not thread-safe.
class SessionAffinity {
 public:
  explicit SessionAffinity(size_t capacity) : capacity_(capacity) {}

  void Remember(const std::string& session_id, int worker_index) {
    if (session_id.empty()) return;
    if (const auto found = index_.find(session_id); found != index_.end()) {
      entries_.erase(found->second);
      index_.erase(found);
    }
    entries_.emplace_front(session_id, worker_index);
    index_.emplace(session_id, entries_.begin());
    if (entries_.size() <= capacity_) return;
    index_.erase(entries_.back().first);
    entries_.pop_back();
  }

  std::optional<int> Find(absl::string_view session_id) const {
    const auto found = index_.find(session_id);
    if (found == index_.end()) return std::nullopt;
    return found->second->second;
  }

 private:
  using Entries = std::list<std::pair<std::string, int>>;  // the newest first
  const size_t capacity_;
  Entries entries_;
  absl::flat_hash_map<std::string, Entries::iterator> index_;
};

}  // namespace m1
