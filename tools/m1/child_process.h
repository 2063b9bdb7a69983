// A server started as a child: its own process group (Ctrl-C at the terminal reaches only us), killed
// by the kernel when our thread dies, standard output read through a pipe, standard error shared.
#pragma once

#include <sys/types.h>

#include <memory>
#include <string>
#include <vector>

#include "absl/status/statusor.h"

namespace m1 {

class ChildProcess {
 public:
  // `program`: path of the executable. Errors: NotFound when it is not there, Internal.
  static absl::StatusOr<std::unique_ptr<ChildProcess>> Start(const std::string& program,
                                                             const std::vector<std::string>& args);
  // Kills it if it still runs.
  ~ChildProcess();
  ChildProcess(const ChildProcess&) = delete;
  ChildProcess& operator=(const ChildProcess&) = delete;

  pid_t pid() const { return pid_; }
  // For poll; readable when it printed something. -1 after its standard output was closed.
  int stdout_fd() const { return stdout_fd_; }
  // Whole lines printed since the last call, without their line ends. Never blocks.
  std::vector<std::string> TakeLines();
  // Reaps it if it has ended. True when it is not running any more.
  bool HasEnded();
  // Valid once HasEnded(): "exit code 3", "signal 9 (Killed)".
  std::string EndText() const;
  // -1 when a signal ended it.
  int exit_code() const;
  void Signal(int signal);
  // Resident memory now, 0 when it cannot be read.
  int64_t ResidentBytes() const;

 private:
  ChildProcess(pid_t pid, int stdout_fd) : pid_(pid), stdout_fd_(stdout_fd) {}

  const pid_t pid_;
  int stdout_fd_;
  bool ended_ = false;
  int wait_status_ = 0;
  std::string partial_line_;
};

}  // namespace m1
