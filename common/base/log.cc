#include "common/base/log.h"

#include <atomic>
#include <cstdio>
#include <cstring>
#include <string>

#include "absl/time/clock.h"
#include "absl/time/time.h"

namespace m1 {
namespace {

std::atomic<LogLevel> g_log_level{LogLevel::kInfo};  // a process-wide setting, written once at start

const char* LevelName(LogLevel level) {
  switch (level) {
    case LogLevel::kError:
      return "ERROR";
    case LogLevel::kWarning:
      return "WARNING";
    case LogLevel::kInfo:
      return "INFO";
    case LogLevel::kVerbose1:
      return "DEBUG";
    case LogLevel::kVerbose2:
      return "TRACE";
  }
  return "?";
}

}  // namespace

void SetLogLevel(LogLevel level) { g_log_level.store(level, std::memory_order_relaxed); }
LogLevel GetLogLevel() { return g_log_level.load(std::memory_order_relaxed); }

bool ParseLogLevel(absl::string_view text, LogLevel* level) {
  if (text == "error") return *level = LogLevel::kError, true;
  if (text == "warning") return *level = LogLevel::kWarning, true;
  if (text == "info") return *level = LogLevel::kInfo, true;
  if (text == "debug") return *level = LogLevel::kVerbose1, true;
  if (text == "trace") return *level = LogLevel::kVerbose2, true;
  return false;
}

LogMessage::LogMessage(LogLevel level, const char* file, int line) {
  const char* slash = std::strrchr(file, '/');
  stream_ << absl::FormatTime("%Y-%m-%dT%H:%M:%E6SZ", absl::Now(), absl::UTCTimeZone()) << ' '
          << LevelName(level) << ' ' << (slash != nullptr ? slash + 1 : file) << ':' << line << ' ';
}

LogMessage::~LogMessage() {
  stream_ << '\n';
  const std::string line = stream_.str();
  std::fwrite(line.data(), 1, line.size(), stderr);
}

}  // namespace m1
