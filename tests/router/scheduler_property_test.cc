// The scheduler under a long random load of clients and workers: what must hold at every step.
// Some requests have several samples, some workers keep the prompts of those, some readers are
// slow.
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
  SinkState OnStarting() override { return is_full ? SinkState::kIsFull : SinkState::kTakesMore; }
  void OnStarted(absl::Time /*now*/) override { was_started = true; }
  SinkState OnPromptTokens(int32_t /*first*/, std::vector<AnswerToken> /*tokens*/) override {
    return SinkState::kTakesMore;
  }
  SinkState OnTokens(std::vector<AnswerToken> tokens, absl::Time /*now*/) override {
    EXPECT_EQ(num_ends, 0);
    for (const AnswerToken& token : tokens) EXPECT_EQ(token.id, ++num_tokens);
    return OnStarting();
  }
  void OnFinished(AnswerEnd /*end*/, int32_t /*stop*/, absl::Time /*now*/) override { ++num_ends; }
  void OnFailed(const absl::Status& status) override {
    ++num_ends;
    failed = true;
    failed_at_deadline = absl::IsDeadlineExceeded(status);
    EXPECT_TRUE(failed_at_deadline || absl::IsUnavailable(status)) << status;
  }

  bool was_started = false;
  int num_tokens = 0;  // the ids count up: a gap or a token twice shows
  int num_ends = 0;
  bool failed = false;
  bool failed_at_deadline = false;
  bool is_full = false;
};

// A worker that computes one token of each sequence a step.
class Worker {
 public:
  struct Running {
    int64_t arrival_order = 0;
    int32_t num_generated = 0;
    int32_t max_new_tokens = 0;
    int64_t kv_blocks = 0;  // those of its group's prompt aside
    int32_t priority = 0;
    int64_t prompt_group = 0;
  };

  void Handle(WorkerCommand command) {
    if (auto* start = std::get_if<StartCommand>(&command)) {
      const auto num_tokens = static_cast<int64_t>(start->token_ids.size());
      running[start->sequence_id] = {
          .arrival_order = start->arrival_order,
          .num_generated = static_cast<int32_t>(num_tokens) - start->prompt_token_count,
          .max_new_tokens = start->max_new_tokens,
          .kv_blocks = KvBlocksToStart(num_tokens, kNumBlocks),
          .priority = start->priority,
          .prompt_group = start->prompt_group};
      ++num_starts;
      if (start->prompt_group == 0) return CheckMemory();
      const int64_t shared = (start->prompt_token_count - 1) / kKvBlockTokens;
      running[start->sequence_id].kv_blocks -= shared;
      shared_blocks[start->prompt_group] = shared;
      open_groups.insert(start->prompt_group);
      kept_groups.insert(start->prompt_group);
      if (!slot_groups.contains(start->prompt_group)) new_groups.insert(start->prompt_group);
    } else if (auto* cancel = std::get_if<CancelCommand>(&command)) {
      running.erase(cancel->sequence_id);
    } else if (auto* preempt = std::get_if<PreemptCommand>(&command)) {
      if (running.erase(preempt->sequence_id) > 0) preempted.push_back(preempt->sequence_id);
    } else if (auto* release = std::get_if<ReleasePromptCommand>(&command)) {
      EXPECT_EQ(open_groups.erase(release->prompt_group), 1U) << "released twice, or never opened";
      for (auto* groups : {&kept_groups, &slot_groups, &new_groups}) {
        groups->erase(release->prompt_group);
      }
    }
    CheckMemory();
  }

  // One router, so its credits are all there is.
  void CheckMemory() const {
    EXPECT_LE(running.size() + slot_groups.size(), static_cast<size_t>(kNumSlots));
    EXPECT_LE(used_blocks(), kNumBlocks);
  }

  int64_t used_blocks() const {
    std::set<int64_t> groups = kept_groups;
    int64_t blocks = 0;
    for (const auto& [id, sequence] : running) {
      blocks += sequence.kv_blocks;
      if (sequence.prompt_group != 0) groups.insert(sequence.prompt_group);
    }
    for (const int64_t group : groups) blocks += shared_blocks.at(group);
    return blocks;
  }

  // The kept prompts that it gives up.
  std::vector<int64_t> DropKept() {
    std::vector<int64_t> dropped(kept_groups.begin(), kept_groups.end());
    kept_groups.clear();
    slot_groups.clear();
    new_groups.clear();
    return dropped;
  }

  // At the end of the step that computed a prompt there must be a slot for it.
  void KeepPrompts(std::vector<int64_t>* lost) {
    for (const int64_t group : std::exchange(new_groups, {})) {
      if (slot_groups.empty() && running.size() < kNumSlots) {
        slot_groups.insert(group);
      } else {
        kept_groups.erase(group);
        lost->push_back(group);
      }
    }
  }

  WorkerCredits credits() const {
    return {.handled_start_count = num_starts,
            .state_slots = kNumSlots - static_cast<int32_t>(running.size() + slot_groups.size()),
            .kv_blocks = kNumBlocks - used_blocks(),
            .ready = true};
  }

  WorkerEvents Step(bool drops_kept) {
    WorkerEvents events;
    // When nobody runs they are all that could make room.
    if (drops_kept || running.empty()) events.lost_prompt_groups = DropKept();
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
    KeepPrompts(&events.lost_prompt_groups);
    events.preempted_sequence_ids = std::exchange(preempted, {});
    events.credits = credits();
    return events;
  }

  bool is_connected = false;
  int64_t num_starts = 0;
  std::map<int64_t, Running> running;
  std::vector<int64_t> preempted;
  std::set<int64_t> open_groups;             // named and not released
  std::set<int64_t> kept_groups;             // of them, whose prompt is here
  std::set<int64_t> slot_groups;             // of them, those with a slot
  std::set<int64_t> new_groups;              // the others
  std::map<int64_t, int64_t> shared_blocks;  // by group
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
      TurnReaders();
      for (int i = 0; i < kNumWorkers; ++i) StepWorker(i);
      if (step % 10 == 0) scheduler_.Tick(now_);
      Check();
    }
  }

  void RunDown() {
    for (int step = 0; scheduler_.num_in_flight() > 0; ++step) {
      ASSERT_LT(step, 20'000) << scheduler_.num_in_flight() << " requests never end";
      now_ += absl::Milliseconds(10);
      for (auto& [id, request] : requests_) SetReader(id, request, /*is_full=*/false);
      for (int i = 0; i < kNumWorkers; ++i) StepWorker(i);
      Check();
    }
    EXPECT_TRUE(requests_.empty());
    EXPECT_EQ(scheduler_.num_queued(), 0U);
    for (const Worker& worker : workers_) {
      EXPECT_TRUE(worker.running.empty());
      EXPECT_TRUE(worker.open_groups.empty()) << "a prompt is kept for nobody";
    }
    for (int i = 0; i < kNumWorkers; ++i) EXPECT_EQ(scheduler_.worker(i).outstanding_tokens, 0);
  }

  uint64_t hash() const { return decisions_.value(); }
  int64_t num_preempted() const { return num_preempted_; }
  size_t num_lost_prompts() const { return num_lost_prompts_; }
  size_t num_ended() const { return num_ended_; }
  size_t num_ended_at_deadline() const { return num_ended_at_deadline_; }

 private:
  struct Request {
    std::vector<std::shared_ptr<CountingSink>> sinks;  // of its samples
    absl::Time arrival;

    // The failure of one ends all, without a word of the others.
    size_t num_open() const {
      size_t count = 0;
      for (const auto& sink : sinks) {
        if (sink->failed) return 0;
        count += sink->num_ends == 0 ? 1 : 0;
      }
      return count;
    }
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
    if (Chance(8)) request.sample_count = Draw(2, 6);
    std::vector<std::shared_ptr<CountingSink>> own;
    for (int i = 0; i < request.sample_count; ++i) own.push_back(std::make_shared<CountingSink>());
    const absl::StatusOr<int64_t> id =
        scheduler_.Submit(std::make_shared<const GenerationRequest>(std::move(request)),
                          {own.begin(), own.end()}, now_);
    if (!id.ok()) {
      EXPECT_GE(scheduler_.num_queued(), kQueueSize);
      EXPECT_GT(scheduler_.AdviseRetry(now_), absl::ZeroDuration());
      return;
    }
    for (size_t i = 0; i < own.size(); ++i) deadlines_[*id + static_cast<int64_t>(i)] = {deadline};
    requests_[*id] = {std::move(own), now_};
  }

  // A reader that has enough reads on within a second.
  void TurnReaders() {
    for (auto& [id, request] : requests_) {
      if (request.sinks[0]->is_full ? Chance(50) : Chance(500)) {
        SetReader(id, request, !request.sinks[0]->is_full);
      }
    }
  }

  void SetReader(int64_t id, const Request& request, bool is_full) {
    if (request.sinks[0]->is_full == is_full) return;
    for (size_t i = 0; i < request.sinks.size(); ++i) request.sinks[i]->is_full = is_full;
    if (is_full) return;
    for (size_t i = 0; i < request.sinks.size(); ++i) {
      scheduler_.Resume(id + static_cast<int64_t>(i), now_);
    }
  }

  void CancelOne() {
    if (requests_.empty()) return;
    auto chosen = requests_.begin();
    std::advance(chosen, Draw(0, static_cast<int>(requests_.size()) - 1));
    for (size_t i = 0; i < chosen->second.sinks.size(); ++i) {
      scheduler_.Cancel(chosen->first + static_cast<int64_t>(i));
    }
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
      WorkerEvents events = worker.Step(/*drops_kept=*/Chance(200));
      num_lost_prompts_ += events.lost_prompt_groups.size();
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
    size_t num_open = 0;
    size_t num_full = 0;
    for (auto it = requests_.begin(); it != requests_.end();) {
      const Request& request = it->second;
      for (const auto& sink : request.sinks) ASSERT_LE(sink->num_ends, 1);
      if (request.num_open() == 0) {
        ++num_ended_;
        num_ended_at_deadline_ +=
            std::any_of(request.sinks.begin(), request.sinks.end(),
                        [](const auto& sink) { return sink->failed_at_deadline; })
                ? 1
                : 0;
        it = requests_.erase(it);
        continue;
      }
      num_open += request.num_open();
      num_full += request.sinks[0]->is_full ? request.num_open() : 0;
      // Five priorities of two seconds each are 8 s of head start, and a full queue is a few more.
      ASSERT_LT(now_ - request.arrival, absl::Seconds(60)) << "a request starves";
      ++it;
    }
    ASSERT_EQ(scheduler_.num_in_flight(), num_open);
    const size_t num_known = scheduler_.num_queued() + scheduler_.num_running();
    ASSERT_LE(num_known, num_open);
    ASSERT_LE(num_open, num_known + num_full) << "parked, and nobody will resume it";
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
  size_t num_lost_prompts_ = 0;
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
    EXPECT_GT(world.num_lost_prompts(), static_cast<size_t>(kStepsPerSeed) / 1000);
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
