#include "tools/m1/supervisor.h"

#include <signal.h>

#include <iostream>
#include <utility>

#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "absl/strings/str_join.h"
#include "absl/strings/strip.h"
#include "absl/time/clock.h"

#include "common/base/log.h"
#include "common/base/status_macros.h"

namespace m1 {
namespace {

constexpr absl::Duration kStopPollInterval = absl::Milliseconds(20);

// What the exit code of a server that never listened means.
absl::Status StartFailure(const std::string& name, const ChildProcess& process) {
  const std::string text = absl::StrCat(name, " ended with ", process.EndText(), " while starting");
  switch (process.exit_code()) {
    case 2:
      return absl::InvalidArgumentError(text);
    case 3:
      return absl::DataLossError(text);
    default:
      return absl::InternalError(text);
  }
}

}  // namespace

Supervisor::Supervisor(UpOptions options, std::string binary_folder)
    : options_(std::move(options)), binary_folder_(std::move(binary_folder)) {
  const auto add = [this](ProcessKind kind, int count) {
    for (int i = 0; i < count; ++i) {
      Slot slot;
      slot.kind = kind;
      slot.index = i;
      slots_.push_back(std::move(slot));
    }
  };
  if (options_.transport != "inproc") add(ProcessKind::kExpertWorker, options_.expert_workers);
  add(ProcessKind::kAttentionWorker, options_.attention_workers);
  add(ProcessKind::kRouter, 1);
  slots_.back().port = options_.port;
}

std::string Supervisor::Name(const Slot& slot) const {
  if (slot.kind == ProcessKind::kRouter) return std::string(KindName(slot.kind));
  return absl::StrCat(KindName(slot.kind), " ", slot.index);
}

bool Supervisor::AllListen(ProcessKind kind) const {
  for (const Slot& slot : slots_) {
    if (slot.kind == kind && slot.address.empty()) return false;
  }
  return true;
}

std::vector<std::string> Supervisor::Addresses(ProcessKind kind) const {
  std::vector<std::string> addresses;
  for (const Slot& slot : slots_) {
    if (slot.kind == kind) addresses.push_back(slot.address);
  }
  return addresses;
}

absl::Status Supervisor::StartSlot(Slot* slot, absl::Time now) {
  ProcessArgsInput input;
  input.kind = slot->kind;
  input.index = slot->index;
  input.port = slot->port;
  input.expert_addresses = Addresses(ProcessKind::kExpertWorker);
  input.attention_addresses = Addresses(ProcessKind::kAttentionWorker);
  const std::string program = absl::StrCat(binary_folder_, "/", BinaryName(slot->kind));
  M1_ASSIGN_OR_RETURN(slot->process, ChildProcess::Start(program, ProcessArgs(options_, input)));
  slot->started_at = now;
  M1_VLOG(1) << "started process=\"" << Name(*slot) << "\" pid=" << slot->process->pid();
  return absl::OkStatus();
}

void Supervisor::ReadLines(Slot* slot) {
  for (const std::string& line : slot->process->TakeLines()) {
    absl::string_view address = line;
    if (!absl::ConsumePrefix(&address, "listening ")) continue;
    slot->address = std::string(address);
    const size_t colon = address.rfind(':');
    int port = 0;
    if (colon != absl::string_view::npos && absl::SimpleAtoi(address.substr(colon + 1), &port)) {
      slot->port = port;  // kept, so that peers find it again after a restart
    }
    M1_LOG(kInfo) << "listening process=\"" << Name(*slot) << "\" address=" << address
                  << " pid=" << slot->process->pid();
  }
}

absl::Status Supervisor::HandleDeath(Slot* slot, absl::Time now) {
  if (slot->address.empty()) return StartFailure(Name(*slot), *slot->process);
  const absl::Duration delay = slot->restart_policy.DelayAfterDeath(now - slot->started_at);
  M1_LOG(kWarning) << "process died, starting it again process=\"" << Name(*slot)
                   << "\" pid=" << slot->process->pid() << " end=\"" << slot->process->EndText()
                   << "\" delay=" << absl::FormatDuration(delay);
  slot->process.reset();
  slot->start_after = now + delay;
  return absl::OkStatus();
}

absl::Status Supervisor::Step(absl::Time now) {
  for (Slot& slot : slots_) {
    if (slot.process != nullptr) {
      ReadLines(&slot);
      if (slot.process->HasEnded()) {
        ReadLines(&slot);  // what it printed last
        M1_RETURN_IF_ERROR(HandleDeath(&slot, now));
      }
      continue;
    }
    const bool peers_listen =
        (slot.kind == ProcessKind::kExpertWorker || AllListen(ProcessKind::kExpertWorker)) &&
        (slot.kind != ProcessKind::kRouter || AllListen(ProcessKind::kAttentionWorker));
    if (peers_listen && now >= slot.start_after) M1_RETURN_IF_ERROR(StartSlot(&slot, now));
  }
  return absl::OkStatus();
}

std::vector<int> Supervisor::PollFds() const {
  std::vector<int> fds;
  for (const Slot& slot : slots_) {
    if (slot.process != nullptr && slot.process->stdout_fd() >= 0) {
      fds.push_back(slot.process->stdout_fd());
    }
  }
  return fds;
}

std::string Supervisor::ProgressText() const {
  std::vector<std::string> parts;
  for (const Slot& slot : slots_) {
    if (slot.process == nullptr) {
      parts.push_back(absl::StrCat(Name(slot), ": waits"));
      continue;
    }
    parts.push_back(absl::StrFormat("%s: %s, %d MiB", Name(slot),
                                    slot.address.empty() ? "loading" : "up",
                                    slot.process->ResidentBytes() >> 20));
  }
  return absl::StrJoin(parts, " | ");
}

bool Supervisor::StopKind(ProcessKind kind, absl::Time deadline, const std::function<bool()>& hurry) {
  for (Slot& slot : slots_) {
    if (slot.kind == kind && slot.process != nullptr) slot.process->Signal(SIGTERM);
  }
  for (;;) {
    bool running = false;
    for (Slot& slot : slots_) {
      if (slot.kind != kind || slot.process == nullptr) continue;
      slot.process->TakeLines();
      running = running || !slot.process->HasEnded();
    }
    if (!running) return true;
    if (absl::Now() >= deadline || hurry()) return false;
    absl::SleepFor(kStopPollInterval);
  }
}

void Supervisor::StopAll(absl::Duration grace, const std::function<bool()>& hurry) {
  // Callers before those they call, so that nobody reports a lost peer.
  const absl::Time deadline = absl::Now() + grace;
  for (ProcessKind kind :
       {ProcessKind::kRouter, ProcessKind::kAttentionWorker, ProcessKind::kExpertWorker}) {
    if (!StopKind(kind, deadline, hurry)) break;
  }
  for (Slot& slot : slots_) {
    if (slot.process != nullptr && !slot.process->HasEnded()) {
      M1_LOG(kWarning) << "killing process=\"" << Name(slot) << "\" pid=" << slot.process->pid();
    }
    slot.process.reset();
  }
}

}  // namespace m1
