// Thinking budgets through the scheduler: a simulated worker keeps the protocol of pauses, while
// commands and events are late by any number of turns. What comes out must be what the budget
// means, written down without a scheduler.
#include <array>
#include <deque>
#include <functional>
#include <random>
#include <span>

#include "tests/router/scheduler_fixture.h"
#include "tests/router/text_pieces.h"

namespace m1 {
namespace {

using testing::ElementsAre;
using testing::HasSubstr;

// Ids 0 to 9, so that answers open and close thoughts by chance, in one token or in several.
const std::vector<std::string> kTexts = {"<think>", "<thi", "nk>",    "a",        "b ",
                                         "\n",      "</",   "think>", "</think>", "x"};

int32_t NextToken(const std::vector<int32_t>& answer, uint32_t seed) {
  uint64_t hash = 0x9E3779B97F4A7C15 * (seed + 1);
  for (int32_t id : answer) hash = (hash ^ static_cast<uint64_t>(id + 1)) * 0x100000001B3;
  const auto draw = static_cast<int32_t>((hash >> 33) % 40);
  // A thought, mostly.
  if (answer.empty() && draw < 34) return draw < 15 ? 0 : draw < 30 ? 1 : 5;
  if (answer.size() == 1 && answer[0] == 1) return 2;
  return draw < 10 ? draw : draw % 3 + 3;
}

std::string TextOf(const std::vector<int32_t>& ids) {
  std::string text;
  for (int32_t id : ids) text += kTexts[static_cast<size_t>(id)];
  return text;
}

// api.md in a loop: after every token the whole text is looked at.
std::vector<int32_t> DefineAnswer(uint32_t seed, const ThinkingLimit& limit,
                                  size_t max_new_tokens) {
  std::vector<int32_t> answer;
  size_t opened_at = 0;  // tokens when <think> was complete; 0: it is not
  bool was_fed = false;
  const auto feed = [&] {
    was_fed = true;
    answer.insert(answer.end(), limit.closing_ids.begin(), limit.closing_ids.end());
  };
  if (limit.budget_tokens == 0) feed();
  while (answer.size() < max_new_tokens) {
    const std::string text = TextOf(answer);
    const size_t begin = text.find_first_not_of(" \n");
    const bool is_thought = begin != std::string::npos && text.compare(begin, 7, "<think>") == 0;
    if (is_thought && opened_at == 0) opened_at = answer.size();
    const bool is_open = is_thought && text.find("</think>", begin) == std::string::npos;
    if (is_open && !was_fed &&
        answer.size() == opened_at + static_cast<size_t>(limit.budget_tokens)) {
      feed();
    } else {
      answer.push_back(NextToken(answer, seed));
    }
  }
  answer.resize(max_new_tokens);
  return answer;
}

// One sequence on a worker that never generates past a pause.
class SimulatedWorker {
 public:
  explicit SimulatedWorker(uint32_t seed) : seed_(seed) {}

  void Handle(const WorkerCommand& command) {
    if (const auto* start = std::get_if<StartCommand>(&command)) {
      id_ = start->sequence_id;
      max_new_tokens_ = static_cast<size_t>(start->max_new_tokens);
      answer_.assign(start->token_ids.begin() + start->prompt_token_count, start->token_ids.end());
      num_reported_ = answer_.size();
      is_paused_ = false;
      Go(start->fed_token_ids, start->pause_at_generated_count);
    } else if (const auto* go_on = std::get_if<ContinueCommand>(&command)) {
      if (go_on->sequence_id != id_) return;
      EXPECT_TRUE(go_on->pause_at_generated_count == 0 ||
                  static_cast<size_t>(go_on->pause_at_generated_count) > answer_.size());
      ++num_continues;
      Go({}, go_on->pause_at_generated_count);
    } else if (const auto* take = std::get_if<TakeTokensCommand>(&command)) {
      if (take->sequence_id != id_) return;
      EXPECT_TRUE(is_paused_);
      Go(take->token_ids, take->pause_at_generated_count);
    }
  }

  // Up to `max_tokens` tokens, as one step's events; none when there is nothing to tell.
  std::optional<WorkerEvents> Step(size_t max_tokens) {
    if (id_ == 0 || is_paused_) return std::nullopt;
    WorkerEvents events;
    events.credits = {
        .handled_start_count = 1000, .state_slots = 9, .kv_blocks = 99, .ready = true};
    TokensEvent& tokens = events.tokens.emplace_back();
    tokens.sequence_id = id_;
    for (size_t i = 0; i < max_tokens && !AtEnd() && !AtPause(); ++i) {
      if (num_reported_ == answer_.size()) answer_.push_back(NextToken(answer_, seed_));
      tokens.tokens.push_back(
          {.id = answer_[num_reported_++], .logprob = -1, .rank = 1, .candidates = {}});
    }
    if (AtEnd()) {
      events.finished.push_back({.sequence_id = id_,
                                 .end = AnswerEnd::kLength,
                                 .stop_token_id = 0,
                                 .status_code = 0,
                                 .status_message = ""});
      id_ = 0;
    } else if (AtPause()) {
      is_paused_ = true;
      ++num_pauses;
      events.paused_sequence_ids.push_back(id_);
    }
    return events;
  }

  // Drops the sequence; none when there is none.
  std::optional<WorkerEvents> Preempt() {
    if (id_ == 0) return std::nullopt;
    WorkerEvents events;
    events.credits = {
        .handled_start_count = 1000, .state_slots = 9, .kv_blocks = 99, .ready = true};
    events.preempted_sequence_ids.push_back(std::exchange(id_, 0));
    return events;
  }

  int num_pauses = 0;
  int num_continues = 0;

 private:
  void Go(std::span<const int32_t> fed, int32_t pause) {
    for (int32_t id : fed) {
      if (answer_.size() < max_new_tokens_) answer_.push_back(id);
    }
    pause_ = static_cast<size_t>(pause);
    is_paused_ = false;
  }
  bool AtEnd() const { return num_reported_ == max_new_tokens_; }
  bool AtPause() const {
    return pause_ > 0 && num_reported_ == answer_.size() && num_reported_ >= pause_;
  }

  const uint32_t seed_;
  int64_t id_ = 0;  // 0: none
  std::vector<int32_t> answer_;
  size_t num_reported_ = 0;
  size_t max_new_tokens_ = 0;
  size_t pause_ = 0;
  bool is_paused_ = false;
};

class QueueingCommands final : public CommandSink {
 public:
  void Send(int /*worker_index*/, WorkerCommand command) override {
    waiting.push_back(std::move(command));
  }
  std::deque<WorkerCommand> waiting;
};

struct Outcome {
  std::vector<int32_t> ids;
  int num_pauses = 0;
  int num_continues = 0;
};

// `random` decides who moves next: the worker steps, a command arrives, an event arrives, the
// sequence is dropped.
Outcome Simulate(uint32_t seed, const ThinkingLimit& limit, int32_t max_new_tokens,
                 const std::function<uint32_t()>& random, bool preempts) {
  const TextPieces pieces(kTexts);
  QueueingCommands commands;
  Scheduler scheduler({.pieces = &pieces, .num_workers = 1}, &commands);
  WorkerWelcome welcome;
  welcome.limits = {
      .max_sequences = 9, .kv_blocks = 99, .max_context_tokens = 1000, .max_step_tokens = 9};
  welcome.credits = {.handled_start_count = 0, .state_slots = 9, .kv_blocks = 99, .ready = true};
  EXPECT_OK(scheduler.OnWelcome(0, welcome, absl::UnixEpoch()));
  GenerationRequest request;
  request.prompt_ids = {3, 3};
  request.max_new_tokens = max_new_tokens;
  request.thinking = limit;
  auto sink = std::make_shared<RecordingSink>();
  EXPECT_OK(scheduler.Submit(request, sink, absl::UnixEpoch()));
  SimulatedWorker worker(seed);
  std::deque<WorkerEvents> events;
  const auto tell = [&events](std::optional<WorkerEvents> step) {
    if (step) events.push_back(*std::move(step));
  };
  for (int turn = 0; !sink->end && !sink->error && turn < 100000; ++turn) {
    const uint32_t draw = random() % 100;
    if (draw < 45) {
      tell(worker.Step(random() % 4 + 1));
    } else if (draw < 70 && !commands.waiting.empty()) {
      worker.Handle(commands.waiting.front());
      commands.waiting.pop_front();
    } else if (draw < 97 && !events.empty()) {
      scheduler.OnStep(0, std::move(events.front()), absl::UnixEpoch());
      events.pop_front();
    } else if (preempts && draw >= 97) {
      tell(worker.Preempt());
    }
  }
  EXPECT_EQ(sink->end, AnswerEnd::kLength) << (sink->error ? sink->error->ToString() : "no end");
  EXPECT_EQ(scheduler.worker(0).outstanding_tokens, 0);
  return {sink->ids, worker.num_pauses, worker.num_continues};
}

TEST(SchedulerThinkingTest, TheAnswerIsTheDefinitionWhateverIsLate) {
  const std::vector<std::vector<int32_t>> closings = {{5, 6, 7}, {8}, {9, 9}, {}, {0, 5, 8, 5}};
  std::mt19937 random(1);
  const auto draw = [&random] { return static_cast<uint32_t>(random()); };
  int num_cut = 0;
  for (uint32_t seed = 0; seed < 3000; ++seed) {
    const ThinkingLimit limit = {.budget_tokens = static_cast<int32_t>(random() % 12),
                                 .closing_ids = closings[random() % closings.size()]};
    const auto max_new_tokens = static_cast<int32_t>(random() % 40 + 1);
    const std::vector<int32_t> expected =
        DefineAnswer(seed, limit, static_cast<size_t>(max_new_tokens));
    ASSERT_EQ(Simulate(seed, limit, max_new_tokens, draw, seed % 2 == 0).ids, expected) << seed;
    if (expected != DefineAnswer(seed, {.budget_tokens = 1000, .closing_ids = {}}, expected.size()))
      ++num_cut;
  }
  EXPECT_GT(num_cut, 800);
}

// Without delay nobody waits: the pause is moved before the worker is there, and lifted when the
// thought is closed.
TEST(SchedulerThinkingTest, APromptRouterCostsNoPauseButTheOneThatCuts) {
  for (uint32_t seed = 0; seed < 200; ++seed) {
    uint32_t turn = 0;
    const auto in_turn = [&turn] {
      return std::array<uint32_t, 4>{0, 0, 80, 60}[turn++ % 4];
    };  // Step draws, too
    const Outcome outcome =
        Simulate(seed, {.budget_tokens = 8, .closing_ids = {8}}, 30, in_turn, false);
    EXPECT_LE(outcome.num_pauses, 1) << seed;
    EXPECT_LE(outcome.num_continues, 2) << seed;
  }
}

class ThinkingSequenceTest : public SchedulerTest {
 protected:
  // On a worker whose tokens are those of kTexts.
  void StartSequence(int32_t budget_tokens, int32_t max_new_tokens = 20) {
    scheduler_.emplace(SchedulerOptions{.pieces = &pieces_, .num_workers = 1}, &commands_);
    Welcome(0);
    GenerationRequest request = MakeRequest(3, max_new_tokens);
    request.thinking = {.budget_tokens = budget_tokens, .closing_ids = {5, 8}};
    Submit(request);
  }

  const TextPieces pieces_{kTexts};
};

TEST_F(ThinkingSequenceTest, NoBudgetIsFedWithTheStart) {
  StartSequence(0);
  EXPECT_THAT(commands_.starts[0].second.fed_token_ids, ElementsAre(5, 8));
  EXPECT_EQ(commands_.starts[0].second.pause_at_generated_count, 0);
}

TEST_F(ThinkingSequenceTest, ASequenceDroppedInsideItsClosingTextIsFedTheRest) {
  StartSequence(1);
  WorkerEvents used_up = Tokens(1, {0, 3}, Plenty());
  used_up.paused_sequence_ids = {1};
  scheduler_->OnStep(0, used_up, now_);
  EXPECT_EQ(commands_.num_continues, 1);
  scheduler_->OnStep(0, Tokens(1, {5}, Plenty()), now_);
  WorkerEvents dropped;
  dropped.preempted_sequence_ids = {1};
  dropped.credits = Plenty();
  scheduler_->OnStep(0, dropped, now_);
  ASSERT_EQ(commands_.starts.size(), 2U);
  EXPECT_THAT(commands_.starts[1].second.token_ids, ElementsAre(1, 1, 1, 0, 3, 5));
  EXPECT_THAT(commands_.starts[1].second.fed_token_ids, ElementsAre(8));
}

TEST_F(ThinkingSequenceTest, ABudgetBeyondTheAnswerAsksForNoPause) {
  StartSequence(20, /*max_new_tokens=*/20);
  EXPECT_EQ(commands_.starts[0].second.pause_at_generated_count, 0);
}

TEST_F(ThinkingSequenceTest, AWorkerThatGoesPastItsPauseIsAnError) {
  StartSequence(1);
  EXPECT_EQ(commands_.starts[0].second.pause_at_generated_count, 2);
  scheduler_->OnStep(0, Tokens(1, {0, 3, 3}, Plenty()), now_);
  ASSERT_TRUE(sinks_[0]->error);
  EXPECT_THAT(*sinks_[0]->error, StatusIs(absl::StatusCode::kInternal, HasSubstr("at most 2")));
}

TEST_F(ThinkingSequenceTest, AnotherTokenThanTheFedOneIsAnError) {
  StartSequence(0);
  scheduler_->OnStep(0, Tokens(1, {5, 3}, Plenty()), now_);
  ASSERT_TRUE(sinks_[0]->error);
  EXPECT_THAT(*sinks_[0]->error,
              StatusIs(absl::StatusCode::kInternal, HasSubstr("token 3 as number 2")));
  EXPECT_EQ(commands_.cancels.size(), 1U);
}

}  // namespace
}  // namespace m1
