// The dispatcher under threads: clients come and go while two workers compute, drop and die.
#include "router/dispatcher.h"

#include <atomic>
#include <deque>
#include <thread>

#include "gtest/gtest.h"

#include "tests/support/status_matchers.h"

namespace m1 {
namespace {

// Checks that tokens come in order; counts ends.
class CountingSink final : public SequenceSink {
 public:
  void OnStarted(absl::Time /*now*/) override {}
  SinkState OnPromptTokens(int32_t /*first_index*/, std::vector<AnswerToken> /*tokens*/) override {
    return SinkState::kTakesMore;
  }
  SinkState OnTokens(std::vector<AnswerToken> tokens, absl::Time /*now*/) override {
    for (const AnswerToken& token : tokens) {
      if (token.id != next_id_++) in_order_ = false;
    }
    return SinkState::kTakesMore;
  }
  void OnFinished(AnswerEnd /*end*/, int32_t /*stop_token_id*/, absl::Time /*now*/) override {
    is_over_ = true;
  }
  void OnFailed(const absl::Status& /*status*/) override { is_over_ = true; }

  bool is_over() const { return is_over_; }
  bool in_order() const { return in_order_; }
  int32_t num_tokens() const { return next_id_; }

 private:
  std::atomic<int32_t> next_id_ = 0;
  std::atomic<bool> is_over_ = false;
  std::atomic<bool> in_order_ = true;
};

// A worker of one thread: each step gives every sequence its next token (the count so far) and now
// and then preempts one, or loses the stream.
class ThreadedWorker final : public WorkerLink {
 public:
  ThreadedWorker(int index, Dispatcher* dispatcher) : index_(index), dispatcher_(dispatcher) {}

  void Send(WorkerCommand command) override {
    MutexLock lock(&mutex_);
    commands_.push_back(std::move(command));
  }

  void Run(const std::atomic<bool>* stop) {
    for (int life = 0; !*stop; ++life) {
      running_.clear();
      handled_ = 0;
      TakeCommands();  // of the last life
      running_.clear();
      handled_ = 0;
      WorkerWelcome welcome;
      welcome.limits = {
          .max_sequences = 8, .kv_blocks = 64, .max_context_tokens = 4096, .max_step_tokens = 64};
      welcome.credits = Credits();
      ASSERT_OK(dispatcher_->OnWelcome(index_, welcome));
      for (int step = 0; step < 200 && !*stop; ++step) {
        TakeCommands();
        dispatcher_->OnStep(index_, Step(step));
      }
      dispatcher_->OnLost(index_, absl::UnavailableError("died"));
    }
  }

 private:
  void TakeCommands() {
    MutexLock lock(&mutex_);
    for (WorkerCommand& command : commands_) {
      if (auto* start = std::get_if<StartCommand>(&command)) {
        running_.push_back(std::move(*start));
        ++handled_;
      } else if (auto* cancel = std::get_if<CancelCommand>(&command)) {
        std::erase_if(running_, [cancel](const StartCommand& running) {
          return running.sequence_id == cancel->sequence_id;
        });
      }
    }
    commands_.clear();
  }

  WorkerEvents Step(int step) {
    WorkerEvents events;
    if (step % 17 == 16 && !running_.empty()) {
      events.preempted_sequence_ids.push_back(running_.back().sequence_id);
      running_.pop_back();
    }
    for (StartCommand& running : running_) {
      const auto next = static_cast<int32_t>(running.token_ids.size()) - running.prompt_token_count;
      running.token_ids.push_back(next);
      TokensEvent& event = events.tokens.emplace_back();
      event.sequence_id = running.sequence_id;
      event.tokens.push_back({.id = next, .logprob = -1, .rank = 1, .candidates = {}});
      if (next + 1 < running.max_new_tokens) continue;
      events.finished.push_back({.sequence_id = running.sequence_id,
                                 .end = AnswerEnd::kLength,
                                 .stop_token_id = 0,
                                 .status_code = 0,
                                 .status_message = ""});
    }
    for (const FinishedEvent& finished : events.finished) {
      std::erase_if(running_, [&finished](const StartCommand& running) {
        return running.sequence_id == finished.sequence_id;
      });
    }
    events.credits = Credits();
    return events;
  }

  WorkerCredits Credits() const {
    return {.handled_start_count = handled_,
            .state_slots = 8 - static_cast<int32_t>(running_.size()),
            .kv_blocks = 64 - 2 * static_cast<int64_t>(running_.size()),
            .ready = true};
  }

  const int index_;
  Dispatcher* const dispatcher_;
  std::vector<StartCommand> running_;
  int64_t handled_ = 0;
  Mutex mutex_;
  std::deque<WorkerCommand> commands_ ABSL_GUARDED_BY(mutex_);
};

TEST(DispatcherTest, AnswersAreCompleteAndInOrderUnderThreads) {
  RealClock clock;
  std::atomic<int> num_changes = 0;
  Dispatcher dispatcher({.num_workers = 2, .queue_size = 10000}, &clock,
                        [&num_changes](bool /*ready*/) { ++num_changes; });
  ThreadedWorker first(0, &dispatcher);
  ThreadedWorker second(1, &dispatcher);
  dispatcher.SetLink(0, &first);
  dispatcher.SetLink(1, &second);
  std::atomic<bool> stop = false;
  std::vector<std::thread> workers;
  workers.emplace_back([&] { first.Run(&stop); });
  workers.emplace_back([&] { second.Run(&stop); });

  constexpr int kClients = 4;
  constexpr int kRequests = 60;
  std::vector<std::thread> clients;
  std::atomic<int> num_complete = 0;
  for (int c = 0; c < kClients; ++c) {
    clients.emplace_back([&, c] {
      for (int i = 0; i < kRequests; ++i) {
        const auto sink = std::make_shared<CountingSink>();
        GenerationRequest request;
        request.prompt_ids = {1, 2, 3};
        request.max_new_tokens = 20 + i % 30;
        const auto id = dispatcher.Submit(request, sink);
        ASSERT_OK(id);
        if (i % 5 == 0) {
          dispatcher.Cancel(*id);
          continue;
        }
        if (i % 7 == 0) dispatcher.Abort(*id);
        while (!sink->is_over()) {
          dispatcher.Tick();
          std::this_thread::yield();
        }
        EXPECT_TRUE(sink->in_order()) << c;
        if (sink->num_tokens() == request.max_new_tokens) ++num_complete;
      }
    });
  }
  for (std::thread& client : clients) client.join();
  stop = true;
  for (std::thread& worker : workers) worker.join();

  EXPECT_GE(num_complete, kClients * (kRequests - kRequests / 5 - kRequests / 7 - 1));
  const RouterSnapshot snapshot = dispatcher.Snapshot();
  EXPECT_EQ(snapshot.num_in_flight, 0U);
  EXPECT_EQ(snapshot.num_queued, 0U);
  for (const WorkerSnapshot& worker : snapshot.workers) EXPECT_EQ(worker.outstanding_tokens, 0);
  EXPECT_GE(num_changes, 2);
}

TEST(DispatcherTest, DrainingRefusesAndIsNotReady) {
  RealClock clock;
  bool is_ready = false;
  Dispatcher dispatcher({.num_workers = 1}, &clock, [&is_ready](bool ready) { is_ready = ready; });
  ThreadedWorker worker(0, &dispatcher);
  dispatcher.SetLink(0, &worker);
  WorkerWelcome welcome;
  welcome.credits.ready = true;
  ASSERT_OK(dispatcher.OnWelcome(0, welcome));
  EXPECT_TRUE(is_ready);
  dispatcher.StopAdmission();
  EXPECT_FALSE(is_ready);
  EXPECT_THAT(dispatcher.Submit({}, std::make_shared<CountingSink>()),
              StatusIs(absl::StatusCode::kUnavailable, testing::HasSubstr("draining")));
}

}  // namespace
}  // namespace m1
