// m1 up: starts the processes, says when the cluster answers, keeps it running until SIGINT or
// SIGTERM.
#include <poll.h>
#include <signal.h>
#include <sys/signalfd.h>
#include <unistd.h>

#include <cstdio>
#include <filesystem>
#include <iostream>
#include <memory>
#include <optional>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "absl/time/clock.h"

#include "common/base/affinity.h"
#include "common/base/log.h"
#include "common/base/process_age.h"
#include "common/base/status_macros.h"
#include "common/rpc/process.h"
#include "common/security/security.h"
#include "tools/m1/commands.h"
#include "tools/m1/flag_set.h"
#include "tools/m1/health_probe.h"
#include "tools/m1/supervisor.h"
#include "tools/m1/up_options.h"

namespace m1 {
namespace {

constexpr int kPollMs = 100;
constexpr absl::Duration kHealthInterval = absl::Milliseconds(200);
constexpr absl::Duration kHealthTimeout = absl::Milliseconds(500);
constexpr absl::Duration kProgressDelay = absl::Seconds(1);
constexpr absl::Duration kProgressInterval = absl::Seconds(5);
constexpr absl::Duration kStopGrace = absl::Seconds(10);

// SIGINT, SIGTERM and SIGCHLD as a file descriptor; blocked for the whole process.
class SignalFd {
 public:
  SignalFd() {
    sigset_t set;
    sigemptyset(&set);
    for (int signal : {SIGINT, SIGTERM, SIGCHLD}) sigaddset(&set, signal);
    pthread_sigmask(SIG_BLOCK, &set, nullptr);
    fd_ = signalfd(-1, &set, SFD_NONBLOCK | SFD_CLOEXEC);
  }
  ~SignalFd() { close(fd_); }
  SignalFd(const SignalFd&) = delete;
  SignalFd& operator=(const SignalFd&) = delete;

  int fd() const { return fd_; }
  // True when one of the signals that end us has come since the last call.
  bool TakeTermination() {
    bool found = false;
    signalfd_siginfo info;
    while (read(fd_, &info, sizeof(info)) == static_cast<ssize_t>(sizeof(info))) {
      found = found || info.ssi_signo != static_cast<unsigned>(SIGCHLD);
    }
    return found;
  }

 private:
  int fd_;
};

void WaitForEvents(int signal_fd, const Supervisor& supervisor) {
  std::vector<pollfd> fds = {{signal_fd, POLLIN, 0}};
  for (int fd : supervisor.PollFds()) fds.push_back({fd, POLLIN, 0});
  poll(fds.data(), fds.size(), kPollMs);
}

// Shows what is starting: rewritten in place on a terminal, otherwise one line now and then.
class Progress {
 public:
  void Show(const std::string& text, absl::Time now) {
    if (now < next_) return;
    if (terminal_) {
      // Ends at the line's start: a server's log line then overwrites it.
      std::fprintf(stderr, "\x1b[K\x1b[2m%s\x1b[0m\r", text.c_str());
    } else {
      std::fprintf(stderr, "starting: %s\n", text.c_str());
      next_ = now + kProgressInterval;
    }
  }
  void Clear() const {
    if (terminal_) std::fputs("\x1b[K", stderr);
  }

 private:
  const bool terminal_ = isatty(STDERR_FILENO) == 1;
  absl::Time next_ = absl::Now() + kProgressDelay;
};

absl::Status RunCluster(const UpOptions& options, const std::string& binary_folder) {
  SignalFd signals;  // before threads, which inherit what it blocks
  M1_ASSIGN_OR_RETURN(const std::unique_ptr<Security> security,
                      Security::Create({.role = Role::kRouter,
                                        .tls_cert = options.PassedOn("tls_cert"),
                                        .tls_key = options.PassedOn("tls_key"),
                                        .tls_ca = options.PassedOn("tls_ca")}));
  Supervisor supervisor(options, binary_folder);
  Progress progress;
  std::optional<HealthProbe> probe;
  bool ready = false;
  absl::Time next_probe = absl::InfinitePast();
  absl::Status status;
  while (!signals.TakeTermination()) {
    const absl::Time now = absl::Now();
    if (!ready) progress.Clear();
    status = supervisor.Step(now);
    if (!status.ok()) break;
    if (!ready) {
      progress.Show(supervisor.ProgressText(), now);
      if (!supervisor.router_address().empty() && now >= next_probe) {
        if (!probe.has_value()) {
          probe.emplace(supervisor.router_address(), security->identity().get());
        }
        ready = probe->IsServing(kHealthTimeout);
        next_probe = now + kHealthInterval;
      }
      if (ready) {
        progress.Clear();
        std::cout << "ready " << supervisor.router_address() << std::endl;
        M1_LOG(kInfo) << "event=serving address=" << supervisor.router_address()
                      << absl::StrFormat(" seconds=%.2f", absl::ToDoubleSeconds(ProcessAge()));
      }
    }
    WaitForEvents(signals.fd(), supervisor);
  }
  progress.Clear();
  supervisor.StopAll(kStopGrace, [&signals] { return signals.TakeTermination(); });
  return status;
}

absl::Status Up(const std::vector<std::string>& args) {
  UpOptions options;
  std::optional<std::string> log_level;
  std::optional<bool> pin;
  bool insecure = false;
  FlagSet flags(
      "up",
      "starts a router, attention workers and expert workers on this machine, prints "
      "\"ready HOST:PORT\" when\nthe cluster answers, and ends it on Ctrl-C. A process that "
      "dies is started again. Flags of the servers\n(--threads, --max_sequences, "
      "--queue_size, ...) are passed on to those that know them;\nwith --tls_cert, --tls_key "
      "and --tls_ca one certificate with all three roles serves all (deploy/security.md).");
  flags.String("model", &options.model, "checkpoint directory (models/tiny)");
  flags.Int("expert_workers", &options.expert_workers,
            "expert workers; worker I takes shard I/N (2)");
  flags.Int("attention_workers", &options.attention_workers, "attention workers (1)");
  flags.Int("port", &options.port, "port of the router, 0 picks a free one (50051)");
  flags.Int(
      "metrics_port", &options.metrics_port,
      "port of the router's /metrics; those of attention and expert workers follow; 0: none (0)");
  flags.String(
      "transport", &options.transport,
      "experts in their own processes, reached by shm (shared memory) or grpc; inproc: inside the "
      "attention worker (shm)");
  flags.Bool(
      "pin", &pin,
      "compute thread i of each worker stays on core i (on, unless --threads is given or not all "
      "cores of the machine may be used)");
  flags.Bool("insecure", &insecure,
             "permit addresses of the router and of --metrics_port that other hosts reach without "
             "TLS (off)");
  flags.String("log_level", &log_level,
               "of m1 and the servers: error, warning, info, debug (m1: info, servers: warning)");
  flags.OnUnknown([&options](absl::string_view name, absl::string_view value) {
    options.passed_on.emplace_back(name, value);
    return absl::OkStatus();
  });
  M1_RETURN_IF_ERROR(flags.Parse(args));
  if (flags.help_requested()) {
    std::cout << flags.HelpText();
    return absl::OkStatus();
  }
  LogLevel level = LogLevel::kInfo;
  if (log_level.has_value() && !ParseLogLevel(*log_level, &level)) {
    return absl::InvalidArgumentError(absl::StrCat("--log_level is \"", *log_level, "\""));
  }
  SetLogLevel(level);
  options.passed_on.emplace_back("log_level", log_level.value_or("warning"));
  if (insecure) options.passed_on.emplace_back("insecure", "true");
  M1_RETURN_IF_ERROR(options.Validate());
  M1_ASSIGN_OR_RETURN(const std::vector<int> cores, AllowedCores());
  options.pin = pin.value_or(options.PinsByDefault(
      static_cast<int>(cores.size()), static_cast<int>(sysconf(_SC_NPROCESSORS_ONLN))));
  std::error_code error;
  const std::filesystem::path self = std::filesystem::read_symlink("/proc/self/exe", error);
  if (error) return absl::InternalError(absl::StrCat("/proc/self/exe: ", error.message()));
  return RunCluster(options, self.parent_path().string());
}

}  // namespace

int RunUp(const std::vector<std::string>& args) {
  const absl::Status status = Up(args);
  return status.ok() ? 0 : FailCommand("up", status);
}

}  // namespace m1
