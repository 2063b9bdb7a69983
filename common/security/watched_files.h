// Files that are looked at again and again, and what was made of them last. Files that cannot be
// read, or are wrong, replace nothing, and are tried at each look: what is wrong with them may be
// the time.
#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <utility>

#include "absl/status/status.h"
#include "absl/status/statusor.h"

#include "common/base/mutex.h"
#include "common/base/status_macros.h"

namespace m1 {

struct ReloadStats {
  int64_t num_taken = 0;     // changes that were taken, back to what is in use among them
  int64_t num_failed = 0;    // that were not; one problem counts once, however long it lasts
  bool is_rejected = false;  // what is on disk is not what is in use
};

// Files: what is read, all of it; Parsed: what is used.
template <typename Files, typename Parsed>
class WatchedFiles {
 public:
  using Read = std::function<absl::StatusOr<Files>()>;
  using Parse = std::function<absl::StatusOr<Parsed>(const Files&)>;
  struct State {
    std::shared_ptr<const Parsed> in_use;  // null before Load; another object after each change
    ReloadStats reloads;
  };

  WatchedFiles(Read read, Parse parse) : read_(std::move(read)), parse_(std::move(parse)) {}

  // Any thread.
  State state() const {
    MutexLock lock(&mutex_);
    return state_;
  }

  // The others are one thread's at a time. Errors: those of reading and parsing.
  absl::Status Load() {
    M1_ASSIGN_OR_RETURN(files_, read_());
    M1_ASSIGN_OR_RETURN(Parsed parsed, parse_(files_));
    auto shared = std::make_shared<const Parsed>(std::move(parsed));
    MutexLock lock(&mutex_);
    state_.in_use = std::move(shared);
    return absl::OkStatus();
  }

  // Takes what has changed since Load. OK: what is on disk is in use again; an error: why it is
  // not; nullopt: all is as at the last look.
  std::optional<absl::Status> Look() {
    const absl::StatusOr<Files> found = read_();
    const bool is_in_use = found.ok() && *found == files_;
    if (is_in_use && problem_.empty()) return std::nullopt;
    std::shared_ptr<const Parsed> taken;
    absl::Status status = found.status();
    if (found.ok() && !is_in_use) {
      absl::StatusOr<Parsed> parsed = parse_(*found);
      status = parsed.status();
      if (parsed.ok()) taken = std::make_shared<const Parsed>(*std::move(parsed));
    }
    if (taken != nullptr) files_ = *found;
    const bool is_news = status.ok() || IsNews(status, found);
    Publish(std::move(taken), status.ok(), is_news);
    problem_ = std::string(status.message());
    refused_ = found.ok() && !status.ok() ? std::optional<Files>(*found) : std::nullopt;
    if (!is_news) return std::nullopt;
    return status;
  }

 private:
  bool IsNews(const absl::Status& problem, const absl::StatusOr<Files>& found) const {
    return problem.message() != problem_ || (found.ok() && refused_ != *found);
  }

  // At once: whoever sees the change sees it counted.
  void Publish(std::shared_ptr<const Parsed> taken, bool ok, bool is_news) {
    MutexLock lock(&mutex_);
    if (taken != nullptr) state_.in_use = std::move(taken);
    if (is_news) ++(ok ? state_.reloads.num_taken : state_.reloads.num_failed);
    state_.reloads.is_rejected = !ok;
  }

  const Read read_;
  const Parse parse_;
  Files files_ = {};              // in use
  std::string problem_;           // of the last look; empty: none
  std::optional<Files> refused_;  // by the last look, if they could be read

  mutable Mutex mutex_;
  State state_ ABSL_GUARDED_BY(mutex_);
};

}  // namespace m1
