#include "common/security/small_file.h"

#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cerrno>
#include <cstring>

#include "absl/strings/str_cat.h"

#include "common/base/status_macros.h"

namespace m1 {
namespace {

absl::Status BadFile(absl::string_view flag, const std::string& path, absl::string_view problem) {
  return absl::InvalidArgumentError(absl::StrCat("--", flag, " ", path, ": ", problem));
}

}  // namespace

absl::StatusOr<std::string> ReadSmallOrEmptyFile(absl::string_view flag, const std::string& path) {
  // A pipe must not hold us up.
  const int fd = open(path.c_str(), O_RDONLY | O_CLOEXEC | O_NONBLOCK);
  if (fd < 0) return BadFile(flag, path, std::strerror(errno));
  struct stat info {};
  std::string text(kMaxSmallFileBytes + 1, '\0');
  size_t size = 0;
  ssize_t count = 0;
  const bool regular = fstat(fd, &info) == 0 && S_ISREG(info.st_mode);
  if (regular) {
    while (size < text.size() && (count = read(fd, &text[size], text.size() - size)) > 0) {
      size += static_cast<size_t>(count);
    }
  }
  close(fd);
  if (!regular) return BadFile(flag, path, "not a regular file");
  if (count < 0) return BadFile(flag, path, "cannot be read");
  if (size > kMaxSmallFileBytes) {
    return BadFile(flag, path, absl::StrCat("above ", kMaxSmallFileBytes, " bytes"));
  }
  text.resize(size);
  return text;
}

absl::StatusOr<std::string> ReadSmallFile(absl::string_view flag, const std::string& path) {
  M1_ASSIGN_OR_RETURN(std::string text, ReadSmallOrEmptyFile(flag, path));
  if (text.empty()) return BadFile(flag, path, "is empty");
  return text;
}

}  // namespace m1
