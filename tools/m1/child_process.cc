#include "tools/m1/child_process.h"

#include <fcntl.h>
#include <signal.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cerrno>
#include <cstdint>
#include <fstream>

#include "absl/strings/str_cat.h"

namespace m1 {
namespace {

// Between fork and exec only async-signal-safe calls: other threads may hold any lock.
[[noreturn]] void RunChild(const char* program, char* const* argv, int stdout_fd, pid_t parent) {
  setpgid(0, 0);
  prctl(PR_SET_PDEATHSIG, SIGKILL);
  if (getppid() != parent) _exit(127);  // it died before prctl
  sigset_t none;
  sigemptyset(&none);
  sigprocmask(SIG_SETMASK, &none, nullptr);
  signal(SIGPIPE, SIG_DFL);
  if (dup2(stdout_fd, STDOUT_FILENO) < 0) _exit(127);
  execv(program, argv);
  _exit(127);
}

}  // namespace

absl::StatusOr<std::unique_ptr<ChildProcess>> ChildProcess::Start(
    const std::string& program, const std::vector<std::string>& args) {
  if (access(program.c_str(), X_OK) != 0) {
    return absl::NotFoundError(absl::StrCat(program, " is not there or not executable"));
  }
  std::vector<char*> argv = {const_cast<char*>(program.c_str())};
  for (const std::string& arg : args) argv.push_back(const_cast<char*>(arg.c_str()));
  argv.push_back(nullptr);
  int fds[2];
  if (pipe2(fds, O_CLOEXEC) != 0) {
    return absl::InternalError(absl::StrCat("pipe2: ", strerror(errno)));
  }
  const pid_t parent = getpid();
  const pid_t pid = fork();
  if (pid == 0) RunChild(program.c_str(), argv.data(), fds[1], parent);
  close(fds[1]);
  if (pid < 0) {
    close(fds[0]);
    return absl::InternalError(absl::StrCat("fork: ", strerror(errno)));
  }
  fcntl(fds[0], F_SETFL, O_NONBLOCK);
  return std::unique_ptr<ChildProcess>(new ChildProcess(pid, fds[0]));
}

ChildProcess::~ChildProcess() {
  if (!HasEnded()) {
    Signal(SIGKILL);
    waitpid(pid_, &wait_status_, 0);
  }
  if (stdout_fd_ >= 0) close(stdout_fd_);
}

std::vector<std::string> ChildProcess::TakeLines() {
  std::vector<std::string> lines;
  char buffer[4096];
  while (stdout_fd_ >= 0) {
    const ssize_t count = read(stdout_fd_, buffer, sizeof(buffer));
    if (count < 0 && errno == EINTR) continue;
    if (count < 0) break;
    if (count == 0) {
      close(stdout_fd_);
      stdout_fd_ = -1;
      break;
    }
    partial_line_.append(buffer, static_cast<size_t>(count));
  }
  size_t end;
  while ((end = partial_line_.find('\n')) != std::string::npos) {
    lines.push_back(partial_line_.substr(0, end));
    partial_line_.erase(0, end + 1);
  }
  return lines;
}

bool ChildProcess::HasEnded() {
  if (!ended_ && waitpid(pid_, &wait_status_, WNOHANG) == pid_) ended_ = true;
  return ended_;
}

std::string ChildProcess::EndText() const {
  if (WIFSIGNALED(wait_status_)) {
    return absl::StrCat("signal ", WTERMSIG(wait_status_), " (", strsignal(WTERMSIG(wait_status_)),
                        ")");
  }
  return absl::StrCat("exit code ", WEXITSTATUS(wait_status_));
}

int ChildProcess::exit_code() const {
  return WIFEXITED(wait_status_) ? WEXITSTATUS(wait_status_) : -1;
}

void ChildProcess::Signal(int signal) {
  if (!ended_) kill(pid_, signal);
}

int64_t ChildProcess::ResidentBytes() const {
  std::ifstream statm(absl::StrCat("/proc/", pid_, "/statm"));
  int64_t size_pages = 0;
  int64_t resident_pages = 0;
  if (!(statm >> size_pages >> resident_pages)) return 0;
  return resident_pages * sysconf(_SC_PAGESIZE);
}

}  // namespace m1
