#include "expert_worker/shm_source.h"

#include <poll.h>
#include <sys/eventfd.h>
#include <sys/socket.h>
#include <unistd.h>

#include <algorithm>
#include <cstring>
#include <utility>

#include "absl/strings/escaping.h"
#include "absl/strings/str_cat.h"
#include "absl/time/clock.h"

#include "common/base/log.h"
#include "common/base/status_macros.h"

namespace m1 {
namespace {

constexpr absl::Duration kHelloTimeout = absl::Seconds(5);
constexpr int kDrainPollMs = 5;
constexpr int kNewcomerPollMs = 1000;

}  // namespace

// Also held by jobs in the engine, whose rows lie in its memory.
struct ShmSource::Connection {
  Connection(int64_t number, UniqueFd fd, ShmHello hello, BackendMemory* backend)
      : client(number),
        socket(std::move(fd)),
        memory(std::move(hello.memory)),
        pinned(backend, memory.data(), memory.num_bytes()),
        doorbell_memory(std::move(hello.doorbell)),
        slots(memory.data(), hello.layout) {}

  void Answer(int32_t slot, int64_t num_bytes) {
    slots.Answer(slot, num_bytes);
    num_open.store(slots.num_open(), std::memory_order_release);
    Doorbell(reinterpret_cast<DoorbellWords*>(doorbell_memory.data())).Ring();
  }
  void AnswerError(int32_t slot, uint64_t id, const absl::Status& status) {
    const std::string frame = EncodeErrorFrame(id, status);
    std::memcpy(slots.answer(slot), frame.data(), frame.size());
    Answer(slot, static_cast<int64_t>(frame.size()));
  }

  const int64_t client;
  const UniqueFd socket;
  const SharedMemory memory;
  const PinnedHost pinned;
  const SharedMemory doorbell_memory;
  AnswerSlots slots;  // the engine's thread's
  std::atomic<int32_t> num_open = 0;
};

// A dispatch while the engine has it.
struct ShmSource::Job {
  std::shared_ptr<Connection> connection;
  int32_t slot = 0;
  FrameHeader answer_header;
  std::vector<RowExpert> pairs;
};

absl::StatusOr<std::unique_ptr<ShmSource>> ShmSource::Create(const DispatchLimits& limits,
                                                             const ExpertExecutor* executor,
                                                             BackendMemory* backend) {
  M1_ASSIGN_OR_RETURN(SharedMemory doorbell, SharedMemory::Create(kDoorbellBytes));
  std::unique_ptr<ShmSource> source(new ShmSource(limits, executor, backend, std::move(doorbell)));
  M1_ASSIGN_OR_RETURN(source->listener_, ListenAbstract(source->offer_.socket));
  source->wake_ = UniqueFd(eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK));
  if (!source->wake_) return absl::UnavailableError("no eventfd");
  source->thread_ = std::thread([raw = source.get()] { raw->Loop(); });
  return source;
}

ShmSource::ShmSource(const DispatchLimits& limits, const ExpertExecutor* executor,
                     BackendMemory* backend, SharedMemory doorbell)
    : limits_(limits),
      executor_(executor),
      backend_(backend),
      doorbell_memory_(std::move(doorbell)),
      doorbell_(reinterpret_cast<DoorbellWords*>(doorbell_memory_.data())),
      offer_{absl::StrCat("m1-expert-worker-", absl::BytesToHexString(RandomBytes(8))),
             RandomBytes(kShmTokenBytes), BootId()} {}

ShmSource::~ShmSource() {
  if (!thread_.joinable()) return;
  {
    MutexLock lock(&mutex_);
    stopping_ = true;
  }
  Wake();
  thread_.join();
}

void ShmSource::Drain() {
  {
    MutexLock lock(&mutex_);
    draining_ = true;
  }
  Wake();
}

size_t ShmSource::num_connections() const {
  MutexLock lock(&mutex_);
  return connections_.size();
}

void ShmSource::Wake() {
  const uint64_t one = 1;
  // It fails only when the counter is full, and then the thread wakes anyway.
  [[maybe_unused]] const ssize_t written = write(wake_.get(), &one, sizeof(one));
}

void ShmSource::TakeJobs(size_t max_jobs, std::vector<EngineJob>* jobs) {
  const size_t most = jobs->size() + max_jobs;
  MutexLock lock(&mutex_);
  if (draining_ || connections_.empty()) return;
  ++first_;
  for (size_t i = 0; i < connections_.size(); ++i) {
    const std::shared_ptr<Connection>& connection =
        connections_[(first_ + i) % connections_.size()];
    // No more than it has slots: a client that refills them without end would hold us here.
    const int32_t num_slots = connection->slots.layout().num_slots;
    for (int32_t taken = 0; taken < num_slots && jobs->size() < most; ++taken) {
      const std::optional<SlotFrame> frame = connection->slots.NextDispatch();
      if (!frame.has_value()) break;
      connection->num_open.store(connection->slots.num_open(), std::memory_order_release);
      Take(connection, *frame, jobs);
    }
  }
}

void ShmSource::Take(const std::shared_ptr<Connection>& connection, const SlotFrame& frame,
                     std::vector<EngineJob>* jobs) {
  auto job = std::make_unique<Job>();
  job->connection = connection;
  job->slot = frame.slot;
  FrameHeader header;
  EngineJob engine_job;
  const absl::Status status = Parse(frame, &header, job.get(), &engine_job.work);
  if (!status.ok()) {
    M1_VLOG(1) << "refused a frame client=" << connection->client << " error=\"" << status.message()
               << "\"";
    return connection->AnswerError(frame.slot, header.id, status);
  }
  engine_job.client = connection->client;
  engine_job.done = [owned = std::move(job)](const absl::Status& result) mutable {
    Connection& to = *owned->connection;
    const FrameHeader& answer = owned->answer_header;
    if (!result.ok()) return to.AnswerError(owned->slot, answer.id, result);
    WriteFrameHeader(answer, to.slots.answer(owned->slot));
    to.Answer(owned->slot, answer.frame_bytes());
  };
  jobs->push_back(std::move(engine_job));
}

absl::Status ShmSource::Parse(const SlotFrame& frame, FrameHeader* header, Job* job,
                              ExpertJob* work) const {
  const AnswerSlots& slots = job->connection->slots;
  ByteChunks bytes{ByteChunks::Chunk(frame.bytes)};
  M1_RETURN_IF_ERROR(ReadFrameHeader(&bytes, header));
  M1_RETURN_IF_ERROR(limits_.Check(*header));
  job->answer_header = CombineHeader(*header);
  if (job->answer_header.frame_bytes() > slots.layout().slot_bytes) {
    return absl::InvalidArgumentError(absl::StrCat("answer of ", job->answer_header.frame_bytes(),
                                                   " bytes, a slot has ",
                                                   slots.layout().slot_bytes));
  }
  const ConstTensorView rows(frame.bytes.data() + kFrameHeaderBytes, header->dtype,
                             {header->num_rows, header->hidden});
  bytes.Skip(rows.num_bytes());
  job->pairs.resize(static_cast<size_t>(header->num_pairs));
  M1_RETURN_IF_ERROR(ReadDispatchPairs(&bytes, header->num_rows, job->pairs));
  const TensorView out(slots.answer(frame.slot) + kFrameHeaderBytes, header->dtype,
                       {header->num_pairs, header->hidden});
  *work = {header->layer, rows, job->pairs, out};
  return executor_->ValidateJob(*work);
}

void ShmSource::Loop() {
  while (true) {
    std::vector<pollfd> events = {{wake_.get(), POLLIN, 0}, {listener_.get(), POLLIN, 0}};
    for (const Newcomer& newcomer : newcomers_)
      events.push_back({newcomer.socket.get(), POLLIN, 0});
    int timeout_ms = newcomers_.empty() ? -1 : kNewcomerPollMs;
    {
      MutexLock lock(&mutex_);
      if (stopping_) return;
      if (draining_ && !connections_.empty()) timeout_ms = kDrainPollMs;
      for (const auto& connection : connections_) {
        events.push_back({connection->socket.get(), POLLIN | POLLRDHUP, 0});
      }
    }
    poll(events.data(), events.size(), timeout_ms);
    uint64_t count = 0;
    [[maybe_unused]] const ssize_t got = read(wake_.get(), &count, sizeof(count));
    Accept();
    GreetNewcomers();
    DropDeadConnections();
  }
}

void ShmSource::Accept() {
  while (true) {
    UniqueFd socket(accept4(listener_.get(), nullptr, nullptr, SOCK_CLOEXEC | SOCK_NONBLOCK));
    if (!socket) {
      // Out of descriptors: the listener stays readable, so do not spin.
      if (errno == EMFILE || errno == ENFILE) absl::SleepFor(absl::Milliseconds(10));
      return;
    }
    // Another user's would only take up room.
    const absl::Status same_user = CheckSameUser(socket.get());
    if (!same_user.ok()) {
      SendRefusal(socket.get(), same_user);
      continue;
    }
    if (newcomers_.size() >= kMaxConnections) continue;  // refused by closing
    newcomers_.push_back({std::move(socket), absl::Now()});
  }
}

void ShmSource::GreetNewcomers() {
  std::vector<Newcomer> silent;
  for (Newcomer& newcomer : newcomers_) {
    absl::StatusOr<std::optional<ShmHello>> hello =
        ReceiveHello(newcomer.socket.get(), offer_.token);
    if (hello.ok() && !hello->has_value()) {
      if (absl::Now() < newcomer.since + kHelloTimeout) silent.push_back(std::move(newcomer));
      continue;
    }
    const absl::Status status =
        hello.ok() ? Welcome(&newcomer.socket, **std::move(hello)) : hello.status();
    if (status.ok()) continue;
    M1_VLOG(1) << "refused shared memory error=\"" << status.message() << "\"";
    SendRefusal(newcomer.socket.get(), status);
  }
  newcomers_ = std::move(silent);
}

absl::Status ShmSource::Welcome(UniqueFd* socket, ShmHello hello) {
  {
    MutexLock lock(&mutex_);
    if (draining_) return absl::UnavailableError("it is shutting down");
    if (connections_.size() >= kMaxConnections) {
      return absl::ResourceExhaustedError(
          absl::StrCat("it has ", kMaxConnections, " connections already"));
    }
  }
  M1_RETURN_IF_ERROR(SendWelcome(socket->get(), doorbell_memory_));
  // Without the lock, since pinning takes time. The number is negative: streams count upwards.
  auto connection = std::make_shared<Connection>(-++num_accepted_, std::move(*socket),
                                                 std::move(hello), backend_);
  MutexLock lock(&mutex_);
  connections_.push_back(std::move(connection));
  M1_VLOG(1) << "attention worker connected by shared memory client=" << -num_accepted_;
  return absl::OkStatus();
}

void ShmSource::DropDeadConnections() {
  std::vector<std::shared_ptr<Connection>> dead;  // ended after the lock: so does their pinning
  MutexLock lock(&mutex_);
  std::erase_if(connections_,
                [&](const std::shared_ptr<Connection>& connection) ABSL_NO_THREAD_SAFETY_ANALYSIS {
                  const int socket = connection->socket.get();
                  if (!HungUp(socket)) {
                    const bool is_open = connection->num_open.load(std::memory_order_acquire) > 0;
                    if (!draining_ || is_open) return false;
                    shutdown(socket, SHUT_RDWR);
                  }
                  dead.push_back(connection);
                  return true;
                });
}

}  // namespace m1
