// Leveled logging to stderr: `2026-01-31T12:00:00.123456Z INFO file.cc:12 key=value ...`.
//
//   M1_LOG(kInfo) << "worker joined address=" << address;
//   M1_VLOG(1) << ...;
//
// Levels mean: kError someone must act; kWarning may heal by itself; kInfo life cycle, not per
// request; M1_VLOG the rest. Never prompts or answers. One line is one write. Thread-safe.
#pragma once

#include <ostream>
#include <sstream>

#include "absl/strings/string_view.h"

namespace m1 {

enum class LogLevel : int { kError = 0, kWarning = 1, kInfo = 2, kVerbose1 = 3, kVerbose2 = 4 };

// Messages above this level are dropped. Default kInfo. Set once at start, from a flag.
void SetLogLevel(LogLevel level);
LogLevel GetLogLevel();
// "error", "warning", "info", "debug" or "trace"; false when unknown.
bool ParseLogLevel(absl::string_view text, LogLevel* level);

class LogMessage {
 public:
  LogMessage(LogLevel level, const char* file, int line);
  ~LogMessage();
  LogMessage(const LogMessage&) = delete;
  LogMessage& operator=(const LogMessage&) = delete;
  std::ostream& stream() { return stream_; }

 private:
  std::ostringstream stream_;
};

}  // namespace m1

#define M1_LOG_AT_(level)                                \
  if (::m1::GetLogLevel() < (level)) {                   \
  } else                                                 \
    ::m1::LogMessage((level), __FILE__, __LINE__).stream()
#define M1_LOG(level) M1_LOG_AT_(::m1::LogLevel::level)
#define M1_VLOG(n) M1_LOG_AT_(static_cast<::m1::LogLevel>(2 + (n)))
