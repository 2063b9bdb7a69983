#include "common/base/trace.h"

#include <unistd.h>

#include <cerrno>
#include <utility>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "absl/strings/str_replace.h"

#include "common/base/log.h"

namespace m1 {

absl::StatusOr<std::unique_ptr<TraceFile>> TraceFile::Create(const std::string& pattern,
                                                             absl::string_view process_name,
                                                             int64_t max_spans) {
  const std::string path = absl::StrReplaceAll(pattern, {{"%p", absl::StrCat(getpid())}});
  std::FILE* file = std::fopen(path.c_str(), "w");
  if (file == nullptr) {
    return absl::ErrnoToStatus(errno, absl::StrCat("trace file ", path, " cannot be written"));
  }
  absl::FPrintF(file,
                "[{\"name\":\"process_name\",\"ph\":\"M\",\"pid\":%d,\"args\":{\"name\":\"%s\"}}",
                getpid(), process_name);
  return std::unique_ptr<TraceFile>(new TraceFile(file, path, max_spans));
}

TraceFile::TraceFile(std::FILE* file, std::string path, int64_t max_spans)
    : path_(std::move(path)), max_spans_(max_spans), file_(file) {}

TraceFile::~TraceFile() {
  MutexLock lock(&mutex_);
  std::fputs("\n]\n", file_);
  if (std::ferror(file_) != 0) {
    M1_LOG(kWarning) << "trace file is not complete path=" << path_;
  }
  std::fclose(file_);
}

void TraceFile::Add(const TraceSpan& span) {
  const auto micros = [](absl::Duration duration) { return absl::ToDoubleMicroseconds(duration); };
  MutexLock lock(&mutex_);
  if (num_spans_ >= max_spans_) {
    if (num_spans_++ == max_spans_) {
      M1_LOG(kWarning) << "trace file is full path=" << path_ << " spans=" << max_spans_;
    }
    return;
  }
  ++num_spans_;
  absl::FPrintF(file_,
                ",\n{\"name\":\"%s\",\"ph\":\"X\",\"pid\":%d,\"tid\":%d,\"ts\":%.3f,\"dur\":%.3f,"
                "\"args\":{\"rows\":%d",
                span.name, getpid(), span.track, micros(span.begin - absl::UnixEpoch()),
                micros(span.end - span.begin), span.rows);
  if (span.layer >= 0) absl::FPrintF(file_, ",\"layer\":%d", span.layer);
  std::fputs("}}", file_);
}

}  // namespace m1
