// What the exchange's transports are measured against: the same bytes there and back between two
// processes by the plainest means, with a process that copies them from what it got to what it
// returns.
#pragma once

#include <linux/futex.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include <atomic>
#include <csignal>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <span>
#include <vector>

#include "common/base/check.h"

namespace m1 {

// A process that answers; killed at the end, or when this one dies.
class EchoProcess {
 public:
  explicit EchoProcess(size_t max_bytes) : max_bytes_(max_bytes) {}
  virtual ~EchoProcess() {
    if (pid_ <= 0) return;
    kill(pid_, SIGKILL);
    waitpid(pid_, nullptr, 0);
  }
  EchoProcess(const EchoProcess&) = delete;
  EchoProcess& operator=(const EchoProcess&) = delete;

  // Before any thread starts.
  void Start() {
    pid_ = fork();
    if (pid_ != 0) return;
    prctl(PR_SET_PDEATHSIG, SIGKILL);
    Answer();
  }
  virtual void RoundTrip(std::span<const std::byte> out, std::span<std::byte> in) = 0;

 protected:
  [[noreturn]] virtual void Answer() = 0;
  const size_t max_bytes_;

 private:
  pid_t pid_ = 0;
};

// One slot each way in a memfd, a futex word each way, a system call to sleep and one to wake.
class FutexEcho final : public EchoProcess {
 public:
  explicit FutexEcho(size_t max_bytes) : EchoProcess(max_bytes) {
    const int fd = memfd_create("bench", MFD_CLOEXEC);
    const size_t size = 4096 + 2 * max_bytes;
    M1_CHECK(fd >= 0 && ftruncate(fd, static_cast<off_t>(size)) == 0);
    void* memory = mmap(nullptr, size, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
    M1_CHECK(memory != MAP_FAILED);
    close(fd);
    words_ = static_cast<Words*>(memory);
    there_ = static_cast<std::byte*>(memory) + 4096;
    back_ = there_ + max_bytes;
  }

  void RoundTrip(std::span<const std::byte> out, std::span<std::byte> in) override {
    std::memcpy(there_, out.data(), out.size());
    words_->num_bytes = out.size();
    Wake(&words_->there);
    Sleep(&words_->back, ++turn_);
    std::memcpy(in.data(), back_, in.size());
  }

 private:
  struct Words {
    alignas(64) std::atomic<uint32_t> there;
    size_t num_bytes;
    alignas(64) std::atomic<uint32_t> back;
  };
  static void Wake(std::atomic<uint32_t>* word) {
    word->fetch_add(1);
    syscall(SYS_futex, reinterpret_cast<uint32_t*>(word), FUTEX_WAKE, 1, nullptr, nullptr, 0);
  }
  static void Sleep(std::atomic<uint32_t>* word, uint32_t until) {
    for (uint32_t seen = *word; seen != until; seen = *word) {
      syscall(SYS_futex, reinterpret_cast<uint32_t*>(word), FUTEX_WAIT, seen, nullptr, nullptr, 0);
    }
  }
  [[noreturn]] void Answer() override {
    for (uint32_t turn = 1;; ++turn) {
      Sleep(&words_->there, turn);
      std::memcpy(back_, there_, words_->num_bytes);
      Wake(&words_->back);
    }
  }

  Words* words_ = nullptr;
  std::byte* there_ = nullptr;
  std::byte* back_ = nullptr;
  uint32_t turn_ = 0;
};

// A blocking stream socket, one length before the bytes.
class SocketEcho final : public EchoProcess {
 public:
  explicit SocketEcho(size_t max_bytes) : EchoProcess(max_bytes) {
    M1_CHECK(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, ends_) == 0);
  }

  void RoundTrip(std::span<const std::byte> out, std::span<std::byte> in) override {
    const size_t size = out.size();
    Write(ends_[0], &size, sizeof(size));
    Write(ends_[0], out.data(), size);
    Read(ends_[0], in.data(), in.size());
  }

 private:
  static void Write(int fd, const void* from, size_t left) {
    for (auto* bytes = static_cast<const std::byte*>(from); left > 0;) {
      const ssize_t count = write(fd, bytes, left);
      M1_CHECK(count > 0);
      bytes += count;
      left -= static_cast<size_t>(count);
    }
  }
  static void Read(int fd, void* to, size_t left) {
    for (auto* bytes = static_cast<std::byte*>(to); left > 0;) {
      const ssize_t count = read(fd, bytes, left);
      M1_CHECK(count > 0);
      bytes += count;
      left -= static_cast<size_t>(count);
    }
  }
  [[noreturn]] void Answer() override {
    std::vector<std::byte> got(max_bytes_);
    std::vector<std::byte> answer(max_bytes_);
    while (true) {
      size_t size = 0;
      Read(ends_[1], &size, sizeof(size));
      Read(ends_[1], got.data(), size);
      std::memcpy(answer.data(), got.data(), size);
      Write(ends_[1], answer.data(), size);
    }
  }

  int ends_[2] = {};
};

}  // namespace m1
