// The scheduler under a long random load of clients and workers: what must hold at every step.
#include <algorithm>
#include <array>
#include <map>
#include <random>
#include <set>
#include <utility>
#include <vector>

#include "tests/router/scheduler_fixture.h"
#include "tests/support/property.h"

namespace m1 {
namespace {

constexpr int kStepsPerSeed = PropertySteps(125'000);
constexpr int kSeeds = 8;
constexpr int kNumWorkers = 3;
constexpr int kNumSlots = 3;
constexpr int64_t kNumBlocks = 12;
constexpr size_t kQueueSize = 20;

class CountingSink final : public SequenceSink {
 public:
  void OnStarted(absl::Time /*now*/) override { was_started = true; }
  SinkState OnPromptTokens(int32_t /*first*/, std::vector<AnswerToken> /*tokens*/) override {
    return SinkState::kTakesMore;
  }
  SinkState OnTokens(std::vector<AnswerToken> tokens, absl::Time /*now*/) override {
    EXPECT_EQ(num_ends, 0);
    for (const AnswerToken& token : tokens) EXPECT_EQ(token.id, ++num_tokens);
    return SinkState::kTakesMore;
  }
  void OnFinished(AnswerEnd /*end*/, int32_t /*stop*/, absl::Time /*now*/) override { ++num_ends; }
  void OnFailed(const absl::Status& status) override {
    ++num_ends;
    failed_at_deadline = absl::IsDeadlineExceeded(status);
    EXPECT_TRUE(failed_at_deadline || absl::IsUnavailable(status)) << status;
  }

  bool was_started = false;
  int num_tokens = 0;  // the ids count up: a gap or a token twice shows
  int num_ends = 0;
  bool failed_at_deadline = false;
};

// A worker that computes one token of each sequence a step.
class Worker {
 public:
  struct Running {
    int64_t arrival_order = 0;
    int32_t num_generated = 0;
    int32_t max_new_tokens = 0;
    int64_t kv_blocks = 0;
    int32_t priority = 0;
  };

  void Handle(WorkerCommand command) {
    if (auto* start = std::get_if<StartCommand>(&command)) {
      const auto num_tokens = static_cast<int64_t>(start->token_ids.size());
      running[start->sequence_id] = {
          .arrival_order = start->arrival_order,
          .num_generated = static_cast<int32_t>(num_tokens) - start->prompt_token_count,
          .max_new_tokens = start->max_new_tokens,
          .kv_blocks = KvBlocksToStart(num_tokens, kNumBlocks),
          .priority = start->priority};
      ++num_starts;
    } else if (auto* cancel = std::get_if<CancelCommand>(&command)) {
      running.erase(cancel->sequence_id);
    } else if (auto* preempt = std::get_if<PreemptCommand>(&command)) {
      if (running.erase(preempt->sequence_id) > 0) preempted.push_back(preempt->sequence_id);
    }
    // One router, so its credits are all there is.
    EXPECT_LE(running.size(), static_cast<size_t>(kNumSlots));
    EXPECT_LE(used_blocks(), kNumBlocks);
  }

  int64_t used_blocks() const {
    int64_t blocks = 0;
    for (const auto& [id, sequence] : running) blocks += sequence.kv_blocks;
    return blocks;
  }

  WorkerCredits credits() const {
    return {.handled_start_count = num_starts,
            .state_slots = kNumSlots - static_cast<int32_t>(running.size()),
            .kv_blocks = kNumBlocks - used_blocks(),
            .ready = true};
  }

  WorkerEvents Step() {
    WorkerEvents events;
    for (auto it = running.begin(); it != running.end();) {
      auto& [id, sequence] = *it;
      TokensEvent& tokens = events.tokens.emplace_back();
      tokens.sequence_id = id;
      tokens.tokens.push_back(
          {.id = ++sequence.num_generated, .logprob = -1, .rank = 1, .candidates = {}});
      if (sequence.num_generated < sequence.max_new_tokens) {
        ++it;
        continue;
      }
      FinishedEvent& finished = events.finished.emplace_back();
      finished.sequence_id = id;
      finished.end = AnswerEnd::kLength;
      it = running.erase(it);
    }
    events.preempted_sequence_ids = std::exchange(preempted, {});
    events.credits = credits();
    return events;
  }

  bool is_connected = false;
  int64_t num_starts = 0;
  std::map<int64_t, Running> running;
  std::vector<int64_t> preempted;
};

class World final : public CommandSink {
 public:
  explicit World(uint64_t seed)
      : random_(seed),
        scheduler_({.num_workers = kNumWorkers,
                    .queue_size = static_cast<int>(kQueueSize),
                    .priority_ageing = absl::Seconds(2)},
                   this) {}

  void Send(int worker_index, WorkerCommand command) override {
    if (const auto* start = std::get_if<StartCommand>(&command)) {
      decisions_.Mix(static_cast<uint64_t>(start->arrival_order * 8 + worker_index));
    }
    if (std::holds_alternative<PreemptCommand>(command)) ++num_preempted_;
    Worker& worker = workers_[static_cast<size_t>(worker_index)];
    ASSERT_TRUE(worker.is_connected);
    worker.Handle(std::move(command));
  }

  void Run(int num_steps) {
    for (int step = 0; step < num_steps && !testing::Test::HasFailure(); ++step) {
      now_ += absl::Milliseconds(10);
      if (Chance(6)) Arrive();
      if (Chance(60)) CancelOne();
      for (int i = 0; i < kNumWorkers; ++i) StepWorker(i);
      if (step % 10 == 0) scheduler_.Tick(now_);
      Check();
    }
  }

  void RunDown() {
    for (int step = 0; scheduler_.num_in_flight() > 0; ++step) {
      ASSERT_LT(step, 20'000) << scheduler_.num_in_flight() << " requests never end";
      now_ += absl::Milliseconds(10);
      for (int i = 0; i < kNumWorkers; ++i) StepWorker(i);
      Check();
    }
    for (const auto& [id, request] : requests_) EXPECT_EQ(request.sink->num_ends, 1) << id;
    EXPECT_EQ(scheduler_.num_queued(), 0U);
    for (const Worker& worker : workers_) EXPECT_TRUE(worker.running.empty());
    for (int i = 0; i < kNumWorkers; ++i) EXPECT_EQ(scheduler_.worker(i).outstanding_tokens, 0);
  }

  uint64_t hash() const { return decisions_.value(); }
  int64_t num_preempted() const { return num_preempted_; }
  size_t num_ended() const { return num_ended_; }
  size_t num_ended_at_deadline() const { return num_ended_at_deadline_; }

 private:
  struct Request {
    std::shared_ptr<CountingSink> sink;
    absl::Time arrival;
  };
  struct Deadline {
    absl::Time time;
    int num_steps_past = 0;
  };

  int Draw(int low, int high) { return std::uniform_int_distribution<>(low, high)(random_); }
  bool Chance(int one_in) { return Draw(1, one_in) == 1; }

  void Arrive() {
    GenerationRequest request;
    request.prompt_ids.assign(static_cast<size_t>(Chance(4) ? Draw(64, 500) : Draw(1, 60)), 1);
    request.max_new_tokens = Draw(1, 80);
    request.priority = Draw(-2, 2);
    request.client = std::string(1, static_cast<char>('a' + Draw(0, 3)));
    if (Chance(4)) request.deadline = now_ + absl::Milliseconds(Draw(5, 3000));
    const absl::Time deadline = request.deadline;
    if (Chance(3)) request.session_id = std::string(1, static_cast<char>('a' + Draw(0, 9)));
    auto sink = std::make_shared<CountingSink>();
    const absl::StatusOr<int64_t> id = scheduler_.Submit(std::move(request), sink, now_);
    if (!id.ok()) {
      EXPECT_GE(scheduler_.num_queued(), kQueueSize);
      EXPECT_GT(scheduler_.AdviseRetry(now_), absl::ZeroDuration());
      return;
    }
    requests_[*id] = {sink, now_};
    deadlines_[*id] = {deadline};
  }

  void CancelOne() {
    if (requests_.empty()) return;
    auto chosen = requests_.begin();
    std::advance(chosen, Draw(0, static_cast<int>(requests_.size()) - 1));
    scheduler_.Cancel(chosen->first);
    requests_.erase(chosen);
  }

  void StepWorker(int index) {
    Worker& worker = workers_[static_cast<size_t>(index)];
    if (!worker.is_connected) {
      if (!Chance(20)) return;
      worker = {};
      worker.is_connected = true;
      WorkerWelcome welcome;
      welcome.identity.fingerprint = "f";
      welcome.limits = {.max_sequences = kNumSlots,
                        .kv_blocks = kNumBlocks,
                        .max_context_tokens = 100000,
                        .max_step_tokens = 512};
      welcome.credits = worker.credits();
      ASSERT_OK(scheduler_.OnWelcome(index, welcome, now_));
    } else if (Chance(2000)) {
      worker = {};
      scheduler_.OnLost(index, now_);
    } else {
      CountStepsPastDeadlines(worker);
      WorkerEvents events = worker.Step();
      scheduler_.OnStep(index, std::move(events), now_);
    }
  }

  // The router learns of time passing when a step has been done.
  void CountStepsPastDeadlines(const Worker& worker) {
    for (const auto& [id, running] : worker.running) {
      Deadline& deadline = deadlines_.at(running.arrival_order);
      if (now_ < deadline.time) continue;
      ASSERT_LE(++deadline.num_steps_past, 1) << "runs on after its deadline";
    }
  }

  void Check() {
    for (auto it = requests_.begin(); it != requests_.end();) {
      const Request& request = it->second;
      ASSERT_LE(request.sink->num_ends, 1);
      if (request.sink->num_ends == 1) {
        ++num_ended_;
        num_ended_at_deadline_ += request.sink->failed_at_deadline ? 1 : 0;
        it = requests_.erase(it);
        continue;
      }
      // Five priorities of two seconds each are 8 s of head start, and a full queue is a few more.
      ASSERT_LT(now_ - request.arrival, absl::Seconds(60)) << "a request starves";
      ++it;
    }
    size_t running = 0;
    for (const Worker& worker : workers_)
      running += worker.running.size() + worker.preempted.size();
    ASSERT_EQ(scheduler_.num_in_flight(), requests_.size());
    ASSERT_LE(running, scheduler_.num_running() + 1U * kNumWorkers * kNumSlots);
    ASSERT_EQ(scheduler_.num_queued() + scheduler_.num_running(), requests_.size());
  }

  std::mt19937_64 random_;
  std::array<Worker, kNumWorkers> workers_;
  Scheduler scheduler_;
  std::map<int64_t, Request> requests_;  // not ended, not cancelled
  std::map<int64_t, Deadline> deadlines_;
  absl::Time now_ = absl::UnixEpoch();
  size_t num_ended_ = 0;
  size_t num_ended_at_deadline_ = 0;
  int64_t num_preempted_ = 0;
  DecisionHash decisions_;
};

TEST(SchedulerPropertyTest, HoldsUnderRandomLoad) {
  int64_t num_preempted = 0;
  for (int seed = 0; seed < kSeeds; ++seed) {
    SCOPED_TRACE(seed);
    World world(static_cast<uint64_t>(seed));
    world.Run(kStepsPerSeed);
    world.RunDown();
    if (HasFailure()) return;
    EXPECT_GT(world.num_ended(), static_cast<size_t>(kStepsPerSeed) / 20);
    EXPECT_GT(world.num_ended_at_deadline(), static_cast<size_t>(kStepsPerSeed) / 1000);
    num_preempted += world.num_preempted();
  }
  EXPECT_GT(num_preempted, kSeeds * kStepsPerSeed / 1000);
}

TEST(SchedulerPropertyTest, TheSameLoadGivesTheSameStarts) {
  World one(99);
  World two(99);
  one.Run(kStepsPerSeed / 10);
  two.Run(kStepsPerSeed / 10);
  EXPECT_EQ(one.hash(), two.hash());
}

}  // namespace
}  // namespace m1
