#include "common/model/input_file.h"

#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cerrno>
#include <climits>
#include <cstdlib>
#include <cstring>
#include <memory>
#include <utility>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"

#include "common/base/status_macros.h"
#include "common/model/strict_json.h"

namespace m1 {
namespace {

std::string RealPath(const std::string& path) {
  struct FreeChars {
    void operator()(char* chars) const { std::free(chars); }
  };
  const std::unique_ptr<char, FreeChars> resolved(realpath(path.c_str(), nullptr));
  return resolved == nullptr ? std::string() : std::string(resolved.get());
}

// Where the opened file really lies: asked of the descriptor, so that no later change of a link
// matters.
std::string PathOfDescriptor(int fd) {
  std::string path(PATH_MAX, '\0');
  const ssize_t length =
      readlink(absl::StrCat("/proc/self/fd/", fd).c_str(), path.data(), path.size());
  path.resize(length > 0 ? static_cast<size_t>(length) : 0);
  return path;
}

bool LiesIn(const std::string& path, const std::string& directory) {
  if (directory.empty()) return false;
  if (directory == "/") return absl::StartsWith(path, "/");
  return absl::StartsWith(path, absl::StrCat(directory, "/"));
}

absl::Status CheckName(const std::string& name) {
  if (name.empty() || name == "." || name == ".." || name.size() > NAME_MAX ||
      name.find('/') != std::string::npos || name.find('\0') != std::string::npos) {
    return absl::DataLossError(
        absl::StrCat("file name ", QuoteForMessage(name), " is not a plain name"));
  }
  return absl::OkStatus();
}

}  // namespace

absl::StatusOr<InputFile> InputFile::Open(const std::string& directory, const std::string& name) {
  M1_RETURN_IF_ERROR(CheckName(name));
  const std::string path = absl::StrCat(directory, "/", name);
  // O_NONBLOCK: opening a pipe must not wait for its writer.
  const int fd = open(path.c_str(), O_RDONLY | O_CLOEXEC | O_NONBLOCK);
  if (fd < 0) {
    const std::string message = absl::StrCat(path, ": ", std::strerror(errno));
    if (errno == ENOENT || errno == ENOTDIR) return absl::NotFoundError(message);
    return absl::DataLossError(message);
  }
  InputFile file(fd, path);
  struct stat info = {};
  if (fstat(fd, &info) != 0)
    return absl::DataLossError(absl::StrCat(path, ": ", std::strerror(errno)));
  if (!S_ISREG(info.st_mode))
    return absl::DataLossError(absl::StrCat(path, ": not a regular file"));
  const std::string real = PathOfDescriptor(fd);
  if (!LiesIn(real, RealPath(directory)) &&
      !LiesIn(real, RealPath(absl::StrCat(directory, "/../../blobs")))) {
    return absl::DataLossError(
        absl::StrCat(path, ": a link that leads out of the directory, to ", real));
  }
  file.size_bytes_ = info.st_size;
  file.device_ = info.st_dev;
  file.inode_ = info.st_ino;
  return file;
}

InputFile::InputFile(InputFile&& other) noexcept
    : fd_(std::exchange(other.fd_, -1)),
      path_(std::move(other.path_)),
      size_bytes_(other.size_bytes_),
      device_(other.device_),
      inode_(other.inode_) {}

InputFile::~InputFile() { Close(); }

void InputFile::Close() {
  if (fd_ >= 0) close(std::exchange(fd_, -1));
}

absl::StatusOr<InputFile> InputFile::Reopen() const {
  const size_t slash = path_.rfind('/');
  M1_ASSIGN_OR_RETURN(InputFile again, Open(path_.substr(0, slash), path_.substr(slash + 1)));
  if (again.device_ != device_ || again.inode_ != inode_) {
    return absl::DataLossError(absl::StrCat(path_, ": another file than when it was opened"));
  }
  if (again.size_bytes_ != size_bytes_) {
    return absl::DataLossError(absl::StrCat(path_, ": has ", again.size_bytes_, " bytes, had ",
                                            size_bytes_, " when it was opened"));
  }
  return again;
}

absl::Status InputFile::ReadAt(int64_t offset, std::span<std::byte> out) const {
  size_t done = 0;
  while (done < out.size()) {
    const ssize_t count = pread(fd_, out.data() + done, out.size() - done,
                                static_cast<off_t>(offset) + static_cast<off_t>(done));
    if (count > 0) {
      done += static_cast<size_t>(count);
    } else if (count == 0) {
      return absl::DataLossError(absl::StrCat(path_, ": the file ends at byte ",
                                              offset + static_cast<int64_t>(done),
                                              " while it is read"));
    } else if (errno != EINTR) {
      return absl::DataLossError(absl::StrCat(path_, ": ", std::strerror(errno)));
    }
  }
  return absl::OkStatus();
}

absl::StatusOr<std::string> ReadInputFile(const std::string& directory, const std::string& name,
                                          int64_t max_bytes) {
  M1_ASSIGN_OR_RETURN(const InputFile file, InputFile::Open(directory, name));
  if (file.size_bytes() > max_bytes) {
    return absl::DataLossError(
        absl::StrCat(file.path(), ": ", file.size_bytes(), " bytes, limit ", max_bytes));
  }
  std::string text(static_cast<size_t>(file.size_bytes()), '\0');
  M1_RETURN_IF_ERROR(file.ReadAt(0, std::as_writable_bytes(std::span(text))));
  return text;
}

}  // namespace m1
