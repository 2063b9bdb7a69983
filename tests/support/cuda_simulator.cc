#include "tests/support/cuda_simulator.h"

#include <ucontext.h>

#include <algorithm>
#include <bit>
#include <memory>

namespace m1::cuda {
namespace {

constexpr size_t kStackBytes = size_t{256} << 10;
constexpr size_t kMaxErrors = 20;

using Kind = SimulatedRequest::Kind;

Bf16 Half(uint32_t word, int index) { return static_cast<Bf16>(index == 0 ? word : word >> 16); }

int8_t Byte(uint32_t word, int index) { return static_cast<int8_t>(word >> (8 * index)); }

// The word's two elements of 16 bits.
uint32_t Join(Bf16 low, Bf16 high) {
  return static_cast<uint32_t>(low) | (static_cast<uint32_t>(high) << 16);
}

}  // namespace

float MmaElement(float d, std::span<const Bf16, 16> a, std::span<const Bf16, 16> b) {
  double sum = static_cast<double>(d);
  for (size_t k = 0; k < 16; ++k) {
    sum += static_cast<double>(Bf16ToFloat(a[k])) * static_cast<double>(Bf16ToFloat(b[k]));
  }
  return static_cast<float>(sum);
}

// One block: its shared memory, and its threads on stacks of their own.
class SimulatedBlock {
 public:
  SimulatedBlock(const LaunchShape& shape, BlockIndex index, SimulatedMemory* memory,
                 SimulationReport* report, const std::function<void(SimulatedThread&)>* kernel)
      : memory_(memory),
        report_(report),
        kernel_(kernel),
        index_(index),
        shared_(shape.shared_bytes),
        fibers_(static_cast<size_t>(shape.threads)) {
    for (size_t t = 0; t < fibers_.size(); ++t) {
      threads_.emplace_back(this, static_cast<int>(t), index);
    }
  }

  void Run();

  // Nothing where `what` is empty.
  void Fail(const SimulatedThread& thread, const std::string& what);
  SimulatedMemory& memory() { return *memory_; }
  void Suspend(size_t thread) { swapcontext(&fibers_[thread].context, &scheduler_); }
  SharedMemory& shared() { return shared_; }

 private:
  struct Fiber {
    ucontext_t context;
    std::unique_ptr<unsigned char[]> stack;
  };
  static void Enter(unsigned high, unsigned low);
  void Start(size_t thread);
  bool RunThreads();
  bool ServeWarp(size_t first);
  bool ServeBarrier();
  void Execute(size_t first, Kind kind);
  void ExecuteMatrices(size_t first, bool transposed);
  void ExecuteTranspose(size_t first);
  void ExecuteMma(size_t first);
  void ExecuteMmaInt8(size_t first);
  void ExecuteShuffle(size_t first);
  void CountConflicts(size_t first);
  SimulatedRequest& Request(size_t first, int lane) {
    return *threads_[first + static_cast<size_t>(lane)].waiting_;
  }

  SimulatedMemory* const memory_;
  SimulationReport* const report_;
  const std::function<void(SimulatedThread&)>* const kernel_;
  const BlockIndex index_;
  SharedMemory shared_;
  std::vector<SimulatedThread> threads_;
  std::vector<Fiber> fibers_;
  ucontext_t scheduler_;
  size_t starting_ = 0;
};

void SimulatedBlock::Fail(const SimulatedThread& thread, const std::string& what) {
  if (what.empty() || report_->errors.size() >= kMaxErrors) return;
  report_->errors.push_back(what + " (block " + std::to_string(index_.x) + ", " +
                            std::to_string(index_.y) + ", " + std::to_string(index_.z) +
                            ", thread " + std::to_string(thread.index_) + ")");
}

void SimulatedBlock::Enter(unsigned high, unsigned low) {
  auto* block = reinterpret_cast<SimulatedBlock*>((static_cast<uintptr_t>(high) << 32) | low);
  const size_t thread = block->starting_;
  (*block->kernel_)(block->threads_[thread]);
  block->threads_[thread].done_ = true;
  block->Suspend(thread);
}

void SimulatedBlock::Start(size_t thread) {
  Fiber& fiber = fibers_[thread];
  // Not std::make_unique, which would clear it.
  fiber.stack.reset(new unsigned char[kStackBytes]);
  getcontext(&fiber.context);
  fiber.context.uc_stack.ss_sp = fiber.stack.get();
  fiber.context.uc_stack.ss_size = kStackBytes;
  fiber.context.uc_link = nullptr;
  const auto self = reinterpret_cast<uintptr_t>(this);
  makecontext(&fiber.context, reinterpret_cast<void (*)()>(&SimulatedBlock::Enter), 2,
              static_cast<unsigned>(self >> 32), static_cast<unsigned>(self));
  starting_ = thread;
  swapcontext(&scheduler_, &fiber.context);
}

void SimulatedBlock::Run() {
  for (size_t t = 0; t < threads_.size(); ++t) Start(t);
  while (std::any_of(threads_.begin(), threads_.end(), [](const auto& t) { return !t.done_; })) {
    bool progress = RunThreads();
    for (size_t first = 0; first < threads_.size(); first += kWarpLanes) {
      progress |= ServeWarp(first);
    }
    progress |= ServeBarrier();
    if (!progress) {
      Fail(threads_[0], "threads wait for one another: not all of them meet");
      return;
    }
  }
  for (const SimulatedThread& thread : threads_) {
    if (thread.finished_ != thread.copies_.size()) Fail(thread, "ends with copies under way");
  }
}

bool SimulatedBlock::RunThreads() {
  bool progress = false;
  for (size_t t = 0; t < threads_.size(); ++t) {
    if (threads_[t].done_ || threads_[t].waiting_ != nullptr) continue;
    swapcontext(&scheduler_, &fibers_[t].context);
    progress = true;
  }
  return progress;
}

bool SimulatedBlock::ServeWarp(size_t first) {
  const SimulatedRequest* request = threads_[first].waiting_;
  if (request == nullptr || request->kind == Kind::kBarrier) return false;
  for (size_t t = first; t < first + kWarpLanes; ++t) {
    if (threads_[t].waiting_ == nullptr || threads_[t].waiting_->kind != request->kind) {
      return false;
    }
  }
  Execute(first, request->kind);
  CountConflicts(first);
  for (size_t t = first; t < first + kWarpLanes; ++t) threads_[t].waiting_ = nullptr;
  return true;
}

bool SimulatedBlock::ServeBarrier() {
  const bool all = std::all_of(threads_.begin(), threads_.end(), [](const SimulatedThread& thread) {
    return thread.waiting_ != nullptr && thread.waiting_->kind == Kind::kBarrier;
  });
  if (!all) return false;
  shared_.PassBarrier();
  for (size_t first = 0; first < threads_.size(); first += kWarpLanes) CountConflicts(first);
  for (SimulatedThread& thread : threads_) thread.waiting_ = nullptr;
  return true;
}

void SimulatedBlock::Execute(size_t first, Kind kind) {
  switch (kind) {
    case Kind::kMatrices:
      return ExecuteMatrices(first, false);
    case Kind::kMatricesTransposed:
      return ExecuteMatrices(first, true);
    case Kind::kTranspose:
      return ExecuteTranspose(first);
    case Kind::kMma:
      return ExecuteMma(first);
    case Kind::kMmaInt8:
      return ExecuteMmaInt8(first);
    case Kind::kShuffle:
      return ExecuteShuffle(first);
    case Kind::kNone:
    case Kind::kBarrier:
      return;
  }
}

// Lane 8 i + r names row r of matrix i; lane 4 r + c gets elements 2 c and 2 c + 1 of row r, or of
// column r.
void SimulatedBlock::ExecuteMatrices(size_t first, bool transposed) {
  Bf16 matrix[4][8][8];
  for (int lane = 0; lane < kWarpLanes; ++lane) {
    SimulatedThread& thread = threads_[first + static_cast<size_t>(lane)];
    std::memset(matrix[lane / 8][lane % 8], 0xff, 16);
    thread.ReadShared(Request(first, lane).offset, matrix[lane / 8][lane % 8], 16);
  }
  for (int lane = 0; lane < kWarpLanes; ++lane) {
    const int row = lane / 4;
    const int column = 2 * (lane % 4);
    for (int i = 0; i < 4; ++i) {
      Request(first, lane).words.word[i] =
          transposed ? Join(matrix[i][column][row], matrix[i][column + 1][row])
                     : Join(matrix[i][row][column], matrix[i][row][column + 1]);
    }
  }
}

void SimulatedBlock::ExecuteTranspose(size_t first) {
  Bf16 matrix[8][8];
  for (int lane = 0; lane < kWarpLanes; ++lane) {
    for (int i = 0; i < 2; ++i) {
      matrix[lane / 4][2 * (lane % 4) + i] = Half(Request(first, lane).word, i);
    }
  }
  for (int lane = 0; lane < kWarpLanes; ++lane) {
    const int column = 2 * (lane % 4);
    Request(first, lane).word = Join(matrix[column][lane / 4], matrix[column + 1][lane / 4]);
  }
}

// Fragments as the PTX manual draws them for mma.m16n8k16 with 16-bit elements.
void SimulatedBlock::ExecuteMma(size_t first) {
  ++report_->mmas;
  Bf16 a[16][16];  // [m][k]
  Bf16 b[8][16];   // [n][k]
  for (int lane = 0; lane < kWarpLanes; ++lane) {
    const SimulatedRequest& request = Request(first, lane);
    for (int i = 0; i < 8; ++i) {
      a[lane / 4 + 8 * (i / 2 % 2)][2 * (lane % 4) + i % 2 + 8 * (i / 4)] =
          Half(request.words.word[i / 2], i % 2);
    }
    for (int i = 0; i < 4; ++i) {
      b[lane / 4][2 * (lane % 4) + i % 2 + 8 * (i / 2)] =
          Half(request.b[static_cast<size_t>(i / 2)], i % 2);
    }
  }
  for (int lane = 0; lane < kWarpLanes; ++lane) {
    for (int i = 0; i < 4; ++i) {
      float& d = Request(first, lane).d[i];
      d = MmaElement(d, a[lane / 4 + 8 * (i / 2)], b[2 * (lane % 4) + i % 2]);
    }
  }
}

// Fragments as the PTX manual draws them for mma.m16n8k32 with elements of 8 bits: element i of a
// lane's operand A is byte i % 4 of word i / 4.
void SimulatedBlock::ExecuteMmaInt8(size_t first) {
  ++report_->mmas;
  int8_t a[16][32];  // [m][k]
  int8_t b[8][32];   // [n][k]
  for (int lane = 0; lane < kWarpLanes; ++lane) {
    const SimulatedRequest& request = Request(first, lane);
    for (int i = 0; i < 16; ++i) {
      const bool upper_row = !(i < 4 || (8 <= i && i < 12));
      a[lane / 4 + (upper_row ? 8 : 0)][lane % 4 * 4 + i % 4 + (i < 8 ? 0 : 16)] =
          Byte(request.words.word[i / 4], i % 4);
    }
    for (int i = 0; i < 8; ++i) {
      b[lane / 4][lane % 4 * 4 + i % 4 + (i < 4 ? 0 : 16)] =
          Byte(request.b[static_cast<size_t>(i / 4)], i % 4);
    }
  }
  for (int lane = 0; lane < kWarpLanes; ++lane) {
    for (int i = 0; i < 4; ++i) {
      const int m = lane / 4 + (i < 2 ? 0 : 8);
      const int n = lane % 4 * 2 + i % 2;
      int32_t sum = 0;
      for (int k = 0; k < 32; ++k) sum += a[m][k] * b[n][k];
      int32_t& d = Request(first, lane).sums[static_cast<size_t>(i)];
      d = static_cast<int32_t>(static_cast<uint32_t>(d) + static_cast<uint32_t>(sum));
    }
  }
}

void SimulatedBlock::ExecuteShuffle(size_t first) {
  std::array<uint32_t, kWarpLanes> words{};
  for (int lane = 0; lane < kWarpLanes; ++lane) {
    words[static_cast<size_t>(lane)] = Request(first, lane).word;
  }
  for (int lane = 0; lane < kWarpLanes; ++lane) {
    SimulatedRequest& request = Request(first, lane);
    request.word = words[static_cast<size_t>(request.lane % kWarpLanes)];
  }
}

void SimulatedBlock::CountConflicts(size_t first) {
  std::array<const std::vector<SharedAccess>*, kWarpLanes> lanes{};
  for (size_t lane = 0; lane < lanes.size(); ++lane) {
    lanes[lane] = &threads_[first + lane].accesses_;
  }
  report_->bank_conflicts += CountBankConflicts(lanes);
  for (size_t lane = 0; lane < lanes.size(); ++lane) threads_[first + lane].accesses_.clear();
}

void SimulatedThread::Wait(SimulatedRequest& request) {
  waiting_ = &request;
  owner_->Suspend(static_cast<size_t>(index_));
}

bool SimulatedThread::MayLoad(const void* from, size_t bytes, size_t alignment) {
  std::string error = owner_->memory().CheckRead(from, bytes);
  if (reinterpret_cast<uintptr_t>(from) % alignment != 0) error = "global read without alignment";
  owner_->Fail(*this, error);
  return error.empty();
}

bool SimulatedThread::MayStore(const void* to, size_t bytes, size_t alignment) {
  std::string error = owner_->memory().NoteWrite(to, bytes);
  if (reinterpret_cast<uintptr_t>(to) % alignment != 0) error = "global write without alignment";
  owner_->Fail(*this, error);
  return error.empty();
}

void SimulatedThread::ReadShared(int offset, void* value, int bytes) {
  accesses_.push_back({offset, bytes});
  owner_->Fail(*this, owner_->shared().Read(index_, {offset, bytes}, value));
}

void SimulatedThread::WriteShared(int offset, const void* value, int bytes) {
  accesses_.push_back({offset, bytes});
  owner_->Fail(*this, owner_->shared().Write(index_, {offset, bytes}, value));
}

// The bytes may arrive at any time from here to WaitCopies.
void SimulatedThread::CopyAsync(int offset, const void* from, int bytes, bool valid) {
  Copy copy{offset, bytes, {}};
  const auto size = static_cast<size_t>(bytes);
  if (valid && MayLoad(from, size, size)) std::memcpy(copy.bytes.data(), from, size);
  copies_.push_back(copy);
  accesses_.push_back({offset, bytes});
  owner_->Fail(*this, owner_->shared().Spoil(index_, {offset, bytes}));
}

void SimulatedThread::FinishCopies(size_t pending) {
  if (committed_.size() < pending + 1) return;
  const size_t end = committed_[committed_.size() - 1 - pending];
  for (; finished_ < end; ++finished_) {
    const Copy& copy = copies_[finished_];
    owner_->Fail(*this,
                 owner_->shared().Write(index_, {copy.offset, copy.size}, copy.bytes.data()));
  }
}

void SimulatedThread::Barrier() {
  SimulatedRequest request{.kind = Kind::kBarrier};
  Wait(request);
}

Words4 SimulatedThread::LoadMatrices(int offset) {
  SimulatedRequest request{.kind = Kind::kMatrices, .offset = offset};
  Wait(request);
  return request.words;
}

Words4 SimulatedThread::LoadMatricesTransposed(int offset) {
  SimulatedRequest request{.kind = Kind::kMatricesTransposed, .offset = offset};
  Wait(request);
  return request.words;
}

uint32_t SimulatedThread::TransposeMatrix(uint32_t word) {
  SimulatedRequest request{.kind = Kind::kTranspose, .word = word};
  Wait(request);
  return request.word;
}

void SimulatedThread::Mma(float (&d)[4], const Words4& a, uint32_t b0, uint32_t b1) {
  SimulatedRequest request{.kind = Kind::kMma, .words = a, .b = {b0, b1}, .d = d};
  Wait(request);
}

void SimulatedThread::MmaInt8(int32_t (&d)[4], const int32_t (&c)[4], const Words4& a, uint32_t b0,
                              uint32_t b1) {
  SimulatedRequest request{.kind = Kind::kMmaInt8, .words = a, .b = {b0, b1}};
  std::copy(std::begin(c), std::end(c), request.sums.begin());
  Wait(request);
  std::copy(request.sums.begin(), request.sums.end(), std::begin(d));
}

uint32_t SimulatedThread::ShuffleWord(uint32_t word, int from_lane) {
  SimulatedRequest request{.kind = Kind::kShuffle, .lane = from_lane, .word = word};
  Wait(request);
  return request.word;
}

SimulationReport Simulate(const LaunchShape& shape, SimulatedMemory& memory,
                          const std::function<void(SimulatedThread&)>& kernel) {
  SimulationReport report;
  for (int z = 0; z < shape.grid.z; ++z) {
    for (int y = 0; y < shape.grid.y; ++y) {
      for (int x = 0; x < shape.grid.x; ++x) {
        SimulatedBlock(shape, {x, y, z}, &memory, &report, &kernel).Run();
      }
    }
  }
  return report;
}

}  // namespace m1::cuda
