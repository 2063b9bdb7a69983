#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <atomic>
#include <cmath>
#include <cstring>
#include <functional>
#include <limits>
#include <utility>

#include "attention_worker/engine.h"
#include "tests/support/local_model.h"

namespace m1 {
namespace {

using ::testing::HasSubstr;

constexpr char kModel[] = "tests/golden/shared-fp32";

// Passes everything on, loses experts or fails when told.
class FaultyExchange final : public ExpertExchange {
 public:
  struct Faults {
    std::atomic<bool> missing = false;
    std::atomic<bool> fail_combine = false;
    std::atomic<int> combines_until_block = 0;  // 0: not to block
    std::atomic<bool> block_combine = false;
    std::atomic<bool> is_blocked = false;
  };
  FaultyExchange(std::unique_ptr<ExpertExchange> inner, Faults* faults)
      : inner_(std::move(inner)), faults_(faults) {}

  absl::Status Dispatch(const DispatchBatch& batch) override { return inner_->Dispatch(batch); }
  absl::Status Combine(int32_t lane) override {
    if (faults_->combines_until_block > 0 && --faults_->combines_until_block == 0)
      faults_->block_combine = true;
    while (faults_->block_combine) {
      faults_->is_blocked = true;
      absl::SleepFor(absl::Milliseconds(1));
    }
    if (faults_->fail_combine) return absl::InvalidArgumentError("hidden size");
    return inner_->Combine(lane);
  }
  std::vector<int32_t> MissingExperts() const override {
    return faults_->missing ? std::vector<int32_t>{3, 5} : std::vector<int32_t>{};
  }
  std::vector<ExpertPeer> Peers() const override { return {}; }
  void Shutdown() override {}

 private:
  std::unique_ptr<ExpertExchange> inner_;
  Faults* faults_;
};

// Keeps everything, waits for what a test expects.
class RecordingSink final : public EventSink {
 public:
  void OnStep(const StepEvents& events) override {
    MutexLock lock(&mutex_);
    for (const ScoredTokens& scored : events.tokens) {
      tokens_.insert(tokens_.end(), scored.tokens.begin(), scored.tokens.end());
    }
    for (const ScoredTokens& scored : events.prompt_tokens) {
      num_prompt_tokens_ += scored.tokens.size();
    }
    finished_.insert(finished_.end(), events.finished.begin(), events.finished.end());
    num_paused_ += events.paused_sequence_ids.size();
    num_preempted_ += events.preempted_sequence_ids.size();
    credits_ = events.credits;
    changed_.SignalAll();
  }

  // Waits until `condition` of this sink holds.
  void WaitFor(const std::function<bool(const RecordingSink&)>& condition) {
    const absl::Time deadline = absl::Now() + absl::Seconds(60);
    MutexLock lock(&mutex_);
    while (!condition(*this)) {
      ASSERT_TRUE(changed_.WaitUntil(&mutex_, deadline)) << "timed out";
    }
  }
  void WaitForFinished(size_t count) {
    WaitFor([count](const RecordingSink& sink)
                ABSL_NO_THREAD_SAFETY_ANALYSIS { return sink.finished_.size() >= count; });
  }

  std::vector<TokenScore> tokens() const {
    MutexLock lock(&mutex_);
    return tokens_;
  }
  std::vector<FinishedSequence> finished() const {
    MutexLock lock(&mutex_);
    return finished_;
  }

  size_t num_prompt_tokens() const {
    MutexLock lock(&mutex_);
    return num_prompt_tokens_;
  }

  mutable Mutex mutex_;
  CondVar changed_;
  std::vector<TokenScore> tokens_ ABSL_GUARDED_BY(mutex_);
  std::vector<FinishedSequence> finished_ ABSL_GUARDED_BY(mutex_);
  size_t num_prompt_tokens_ ABSL_GUARDED_BY(mutex_) = 0;
  size_t num_paused_ ABSL_GUARDED_BY(mutex_) = 0;
  size_t num_preempted_ ABSL_GUARDED_BY(mutex_) = 0;
  Credits credits_ ABSL_GUARDED_BY(mutex_);
};

SequenceStart Greedy(int64_t id, int32_t max_new_tokens) {
  SequenceStart start;
  start.sequence_id = id;
  start.token_ids = {5, 6, 7, 8};
  start.prompt_token_count = 4;
  start.sampling.temperature = 0.0F;
  start.max_new_tokens = max_new_tokens;
  return start;
}

class EngineTest : public testing::Test {
 protected:
  ~EngineTest() override { faults_.block_combine = false; }
  void Create(LocalModelOptions options = {}) {
    options.wrap_exchange = [this](std::unique_ptr<ExpertExchange> inner) {
      return std::make_unique<FaultyExchange>(std::move(inner), &faults_);
    };
    model_ = std::make_unique<LocalModel>(kModel, options);
    client_ = model_->engine().AddClient(sink_);
  }
  void Submit(SequenceCommand command) {
    ASSERT_TRUE(model_->engine().Submit(client_, std::move(command)).ok());
  }
  // It stands in a step until block_combine is taken back: it might be over before a test goes on.
  void SubmitAndHold(SequenceStart start, int num_combines = 50) {
    faults_.combines_until_block = num_combines;
    Submit(std::move(start));
    while (!faults_.is_blocked) absl::SleepFor(absl::Milliseconds(1));
  }
  void WaitForPauses(size_t count) {
    sink_->WaitFor([count](const RecordingSink& sink)
                       ABSL_NO_THREAD_SAFETY_ANALYSIS { return sink.num_paused_ >= count; });
  }
  void WaitUntilUnused() {
    const absl::Time deadline = absl::Now() + absl::Seconds(30);
    while (model_->stats().used_sequences + model_->stats().waiting_sequences > 0) {
      ASSERT_LT(absl::Now(), deadline);
      absl::SleepFor(absl::Milliseconds(1));
    }
  }

  FaultyExchange::Faults faults_;
  std::shared_ptr<RecordingSink> sink_ = std::make_shared<RecordingSink>();
  std::unique_ptr<LocalModel> model_;
  int64_t client_ = 0;
};

TEST_F(EngineTest, PausesAndFedTokensChangeNothing) {
  Create();
  Submit(Greedy(1, 12));
  sink_->WaitForFinished(1);
  const std::vector<TokenScore> expected = sink_->tokens();
  ASSERT_EQ(expected.size(), 12U);

  SequenceStart pausing = Greedy(2, 12);
  pausing.pause_at_generated_count = 3;
  Submit(pausing);
  WaitForPauses(1);
  EXPECT_EQ(sink_->tokens().size(), 15U);
  Submit(ContinueSequence{.sequence_id = 2, .pause_at_generated_count = 5});
  WaitForPauses(2);
  EXPECT_EQ(sink_->tokens().size(), 17U);
  // What it would have said is fed to it: the same tokens with the same logprobs come back.
  Submit(TakeTokens{.sequence_id = 2,
                    .token_ids = {expected[5].id, expected[6].id, expected[7].id},
                    .pause_at_generated_count = 0});
  sink_->WaitForFinished(2);
  const std::vector<TokenScore> all = sink_->tokens();
  ASSERT_EQ(all.size(), 24U);
  for (size_t i = 0; i < 12; ++i) {
    EXPECT_EQ(all[12 + i].id, expected[i].id) << i;
    EXPECT_EQ(all[12 + i].logprob, expected[i].logprob) << i;
  }
}

// Whether the word comes before the old pause or after it, the same is generated.
TEST_F(EngineTest, APauseThatIsAheadMoves) {
  Create();
  Submit(Greedy(1, 40));
  sink_->WaitForFinished(1);
  const std::vector<TokenScore> expected = sink_->tokens();
  for (int64_t id = 2; id < 6; ++id) {
    const size_t before = sink_->tokens().size();
    SequenceStart pausing = Greedy(id, 40);
    pausing.pause_at_generated_count = static_cast<int32_t>(id);
    Submit(pausing);
    Submit(ContinueSequence{.sequence_id = id, .pause_at_generated_count = 20});
    sink_->WaitFor([before](const RecordingSink& sink) ABSL_NO_THREAD_SAFETY_ANALYSIS {
      return sink.tokens_.size() >= before + 20;
    });
    Submit(ContinueSequence{.sequence_id = id, .pause_at_generated_count = 0});
    sink_->WaitForFinished(static_cast<size_t>(id));
    const std::vector<TokenScore> all = sink_->tokens();
    ASSERT_EQ(all.size(), before + 40);
    for (size_t i = 0; i < 40; ++i) ASSERT_EQ(all[before + i].logprob, expected[i].logprob);
  }
}

TEST_F(EngineTest, APauseBehindIsRefused) {
  Create();
  SequenceStart pausing = Greedy(1, 40);
  pausing.pause_at_generated_count = 5;
  Submit(pausing);
  WaitForPauses(1);
  Submit(ContinueSequence{.sequence_id = 1, .pause_at_generated_count = 5});
  sink_->WaitForFinished(1);
  EXPECT_THAT(sink_->finished()[0].status.message(), HasSubstr("a pause at 5 when 5 were"));
}

TEST_F(EngineTest, AStartMayBringTokensToFeed) {
  Create();
  Submit(Greedy(1, 12));
  sink_->WaitForFinished(1);
  const std::vector<TokenScore> expected = sink_->tokens();
  // Before anything was generated, and behind a resume point.
  for (size_t emitted : {0U, 2U}) {
    const size_t before = sink_->tokens().size();
    SequenceStart feeding = Greedy(static_cast<int64_t>(2 + emitted), 12);
    for (size_t i = 0; i < emitted; ++i) feeding.token_ids.push_back(expected[i].id);
    for (size_t i = emitted; i < 5; ++i) feeding.fed_token_ids.push_back(expected[i].id);
    Submit(feeding);
    sink_->WaitForFinished(2 + (emitted > 0 ? 1 : 0));
    const std::vector<TokenScore> all = sink_->tokens();
    ASSERT_EQ(all.size(), before + 12 - emitted);
    for (size_t i = emitted; i < 12; ++i) {
      EXPECT_EQ(all[before + i - emitted].id, expected[i].id);
      EXPECT_EQ(all[before + i - emitted].logprob, expected[i].logprob);
    }
  }
}

TEST_F(EngineTest, FedTokensEndAtALimitOrAStopToken) {
  Create();
  SequenceStart limited = Greedy(1, 3);
  limited.fed_token_ids = {9, 9, 9, 9, 9};
  Submit(limited);
  sink_->WaitForFinished(1);
  EXPECT_EQ(sink_->tokens().size(), 3U);
  EXPECT_EQ(sink_->finished()[0].end, SequenceEnd::kLength);
  SequenceStart stopping = Greedy(2, 12);
  stopping.fed_token_ids = {9, 11, 9};
  stopping.stop_token_ids = {11};
  Submit(stopping);
  sink_->WaitForFinished(2);
  EXPECT_EQ(sink_->tokens().size(), 5U);
  EXPECT_EQ(sink_->finished()[1].stop_token_id, 11);
}

TEST_F(EngineTest, ResumePointsGoOn) {
  Create();
  Submit(Greedy(1, 12));
  sink_->WaitForFinished(1);
  const std::vector<TokenScore> expected = sink_->tokens();
  // At its pause, after its end, and in the middle.
  SequenceStart at_pause = Greedy(2, 12);
  at_pause.token_ids.push_back(expected[0].id);
  at_pause.pause_at_generated_count = 1;
  Submit(at_pause);
  WaitForPauses(1);
  Submit(ContinueSequence{.sequence_id = 2, .pause_at_generated_count = 0});
  sink_->WaitForFinished(2);
  const std::vector<TokenScore> all = sink_->tokens();
  ASSERT_EQ(all.size(), 23U);
  for (size_t i = 1; i < 12; ++i) EXPECT_EQ(all[11 + i].logprob, expected[i].logprob);
  SequenceStart at_end = Greedy(3, 2);
  at_end.token_ids.push_back(expected[0].id);
  at_end.token_ids.push_back(expected[1].id);
  Submit(at_end);
  sink_->WaitForFinished(3);
  EXPECT_EQ(sink_->tokens().size(), 23U);
  EXPECT_EQ(sink_->finished()[2].end, SequenceEnd::kLength);
}

TEST_F(EngineTest, StopTokensEnd) {
  Create();
  Submit(Greedy(1, 12));
  sink_->WaitForFinished(1);
  SequenceStart stopping = Greedy(2, 12);
  stopping.stop_token_ids = {sink_->tokens()[4].id};
  Submit(stopping);
  sink_->WaitForFinished(2);
  const FinishedSequence finished = sink_->finished()[1];
  EXPECT_EQ(finished.end, SequenceEnd::kStopToken);
  EXPECT_EQ(finished.stop_token_id, sink_->tokens()[4].id);
  EXPECT_LE(sink_->tokens().size(), 17U);
}

// Where an answer with these tokens ends: the number of tokens, and the run after each.
struct RunLengths {
  RunLengths(const std::vector<TokenScore>& tokens, int32_t max_run, double logprob) {
    int32_t run = 0;
    for (const TokenScore& token : tokens) {
      run = static_cast<double>(token.logprob) > logprob ? run + 1 : 0;
      after.push_back(run);
      if (run == max_run) break;
    }
    ends = after.back() == max_run;
  }
  bool ends = false;
  std::vector<int32_t> after;
};

class RepetitionTest : public EngineTest {
 protected:
  void SetUp() override {
    Create();
    Submit(Greedy(next_id_++, 12));
    sink_->WaitForFinished(1);
    answer_ = sink_->tokens();
    std::vector<float> logprobs;
    for (const TokenScore& token : answer_) logprobs.push_back(token.logprob);
    std::sort(logprobs.begin(), logprobs.end());
    logprob_ = static_cast<double>(logprobs[3]);  // a token of exactly this logprob does not count
  }

  SequenceStart Start(int32_t max_run) {
    SequenceStart start = Greedy(next_id_++, 12);
    start.max_repetition_run = max_run;
    start.repetition_logprob = logprob_;
    return start;
  }
  // Waits for one more end; the tokens that came since the last call.
  size_t CountNewTokens(const FinishedSequence** finished) {
    sink_->WaitForFinished(++num_finished_);
    finished_ = sink_->finished().back();
    *finished = &finished_;
    const size_t count = sink_->tokens().size();
    return count - std::exchange(num_tokens_, count);
  }

  int64_t next_id_ = 1;
  std::vector<TokenScore> answer_;
  double logprob_ = 0.0;
  size_t num_finished_ = 1;
  size_t num_tokens_ = 12;
  FinishedSequence finished_;
};

TEST_F(RepetitionTest, ARunOfNearCertainTokensEnds) {
  int num_ends = 0;
  const FinishedSequence* finished = nullptr;
  for (int32_t max_run = 0; max_run <= 12; ++max_run) {
    const RunLengths wanted(answer_, max_run == 0 ? 100 : max_run, logprob_);
    Submit(Start(max_run));
    EXPECT_EQ(CountNewTokens(&finished), wanted.after.size()) << max_run;
    EXPECT_EQ(finished->end, wanted.ends ? SequenceEnd::kRepetition : SequenceEnd::kLength);
    num_ends += wanted.ends ? 1 : 0;
  }
  EXPECT_GT(num_ends, 1);
}

TEST_F(RepetitionTest, TheRunGoesOnAfterAResume) {
  const FinishedSequence* finished = nullptr;
  const RunLengths wanted(answer_, 3, logprob_);
  ASSERT_TRUE(wanted.ends);
  for (size_t known = 1; known <= wanted.after.size(); ++known) {
    SequenceStart start = Start(3);
    for (size_t i = 0; i < known; ++i) start.token_ids.push_back(answer_[i].id);
    start.repetition_run = wanted.after[known - 1];
    Submit(start);
    EXPECT_EQ(CountNewTokens(&finished), wanted.after.size() - known);
    EXPECT_EQ(finished->end, SequenceEnd::kRepetition);
  }
}

// The last of the prompt were generated by an earlier stream; a worker may have been lost since.
TEST_F(RepetitionTest, TheRunBeginsAmongGeneratedTokensOfThePrompt) {
  const FinishedSequence* finished = nullptr;
  const RunLengths wanted(answer_, 3, logprob_);
  ASSERT_TRUE(wanted.ends);
  for (size_t known = 1; known <= wanted.after.size(); ++known) {
    for (size_t in_prompt = 1; in_prompt <= known; ++in_prompt) {
      SequenceStart start = Start(3);
      for (size_t i = 0; i < known; ++i) start.token_ids.push_back(answer_[i].id);
      start.prompt_token_count += static_cast<int32_t>(in_prompt);
      start.generated_prompt_token_count = static_cast<int32_t>(in_prompt);
      start.repetition_run =
          std::min(wanted.after[known - 1], static_cast<int32_t>(known - in_prompt));
      Submit(start);
      EXPECT_EQ(CountNewTokens(&finished), wanted.after.size() - known);
      EXPECT_EQ(finished->end, SequenceEnd::kRepetition) << known << " " << in_prompt;
    }
  }
}

TEST_F(RepetitionTest, TokensThatWereFedCount) {
  const FinishedSequence* finished = nullptr;
  const RunLengths wanted(answer_, 3, logprob_);
  ASSERT_TRUE(wanted.ends);
  SequenceStart start = Start(3);
  start.pause_at_generated_count = 1;
  TakeTokens take{.sequence_id = start.sequence_id, .token_ids = {}, .pause_at_generated_count = 0};
  for (size_t i = 1; i < answer_.size(); ++i) take.token_ids.push_back(answer_[i].id);
  Submit(start);
  WaitForPauses(1);
  Submit(take);
  EXPECT_EQ(CountNewTokens(&finished), wanted.after.size());
  EXPECT_EQ(finished->end, SequenceEnd::kRepetition);
}

TEST_F(RepetitionTest, AStopTokenComesFirst) {
  const FinishedSequence* finished = nullptr;
  SequenceStart start = Start(1);
  start.repetition_logprob = -1e9;
  start.stop_token_ids = {answer_[0].id};
  Submit(start);
  EXPECT_EQ(CountNewTokens(&finished), 1U);
  EXPECT_EQ(finished->end, SequenceEnd::kStopToken);
  start = Start(12);
  start.repetition_logprob = -1e9;
  Submit(start);
  EXPECT_EQ(CountNewTokens(&finished), 12U);
  EXPECT_EQ(finished->end, SequenceEnd::kRepetition);
}

TEST_F(EngineTest, StopTokensAreMaskedBeforeMinNewTokens) {
  Create();
  Submit(Greedy(1, 12));
  sink_->WaitForFinished(1);
  const std::vector<TokenScore> free = sink_->tokens();
  SequenceStart start = Greedy(2, 12);
  start.stop_token_ids = {free[4].id};
  start.min_new_tokens = 8;
  Submit(start);
  sink_->WaitForFinished(2);
  const std::vector<TokenScore> all = sink_->tokens();
  ASSERT_GE(all.size(), 20U);
  for (size_t i = 0; i < 8; ++i) EXPECT_NE(all[12 + i].id, free[4].id) << i;
  // What was masked was the likeliest all the same: logprobs and ranks are those of the model.
  EXPECT_EQ(all[12 + 4].rank, 2);
}

// A token that is fed can be a stop token; before min_new_tokens it does not end.
TEST_F(EngineTest, FedStopTokensBeforeMinNewTokensEndNothing) {
  Create();
  SequenceStart start = Greedy(1, 10);
  start.stop_token_ids = {9};
  start.min_new_tokens = 4;
  start.pause_at_generated_count = 1;
  Submit(start);
  WaitForPauses(1);
  Submit(TakeTokens{.sequence_id = 1, .token_ids = {9, 9}, .pause_at_generated_count = 4});
  WaitForPauses(2);
  EXPECT_EQ(sink_->tokens().size(), 4U);
  // Now the first one ends it, and the next draw of the same step is not made.
  Submit(TakeTokens{.sequence_id = 1, .token_ids = {3, 9, 5}, .pause_at_generated_count = 0});
  sink_->WaitForFinished(1);
  EXPECT_EQ(sink_->finished()[0].end, SequenceEnd::kStopToken);
  EXPECT_EQ(sink_->tokens().size(), 6U);
}

// All of the answer is there already; its prompt is scored before that is told.
TEST_F(EngineTest, AnAnswerThatIsInItsPromptIsScored) {
  Create();
  for (const bool by_stop : {false, true}) {
    SequenceStart start = Greedy(by_stop ? 2 : 1, by_stop ? 50 : 2);
    start.generated_prompt_token_count = 2;
    start.prompt_logprobs = true;
    if (by_stop) start.stop_token_ids = {start.token_ids.back()};
    Submit(start);
    sink_->WaitForFinished(by_stop ? 2 : 1);
    EXPECT_EQ(sink_->finished().back().end,
              by_stop ? SequenceEnd::kStopToken : SequenceEnd::kLength);
    EXPECT_EQ(sink_->num_prompt_tokens(), by_stop ? 8U : 4U);
    EXPECT_TRUE(sink_->tokens().empty());
  }
}

TEST_F(EngineTest, CancelAndDepartureFreeMemory) {
  Create();
  SubmitAndHold(Greedy(1, 4000));
  Submit(CancelSequence{.sequence_id = 1});
  faults_.block_combine = false;
  sink_->WaitForFinished(1);
  EXPECT_EQ(sink_->finished()[0].end, SequenceEnd::kCancelled);
  WaitUntilUnused();
  for (int64_t id = 2; id < 10; ++id) Submit(Greedy(id, 4000));
  model_->engine().RemoveClient(client_);
  WaitUntilUnused();
  EXPECT_EQ(model_->stats().used_kv_blocks, 0);
}

TEST_F(EngineTest, BadCommandsGetAnErrorEach) {
  Create();
  SequenceStart bad_id = Greedy(1, 5);
  bad_id.token_ids[2] = 1 << 20;
  Submit(bad_id);
  Submit(Greedy(2, 1 << 30));
  SequenceStart bad_bias = Greedy(5, 5);
  bad_bias.sampling.logit_bias = {{1 << 20, 1.0F}};
  Submit(bad_bias);
  SequenceStart bad_penalty = Greedy(6, 5);
  bad_penalty.sampling.repetition_penalty = 0.0F;
  Submit(bad_penalty);
  SequenceStart no_prompt = Greedy(3, 5);
  no_prompt.prompt_token_count = 9;
  Submit(no_prompt);
  SubmitAndHold(Greedy(4, 4000));
  Submit(Greedy(4, 4000));
  Submit(ContinueSequence{.sequence_id = 77});  // unknown: ignored
  Submit(TakeTokens{.sequence_id = 4, .token_ids = {1}});
  faults_.block_combine = false;
  sink_->WaitForFinished(7);
  std::vector<FinishedSequence> finished = sink_->finished();
  EXPECT_THAT(finished[2].status.message(), HasSubstr("token id 1048576 is outside"));
  EXPECT_THAT(finished[3].status.message(), HasSubstr("repetition_penalty 0"));
  finished.erase(finished.begin() + 2, finished.begin() + 4);
  EXPECT_THAT(finished[0].status.message(), HasSubstr("token id 1048576 is outside"));
  EXPECT_THAT(finished[1].status.message(), HasSubstr("exceeds the worker's context"));
  EXPECT_THAT(finished[2].status.message(), HasSubstr("prompt_token_count 9 of 4"));
  EXPECT_EQ(finished[3].status.code(), absl::StatusCode::kAlreadyExists);
  EXPECT_THAT(finished[4].status.message(), HasSubstr("not paused"));
}

TEST_F(EngineTest, WaitsForMissingExperts) {
  faults_.missing = true;
  Create();
  Submit(Greedy(1, 5));
  absl::SleepFor(absl::Milliseconds(50));
  EXPECT_EQ(model_->stats().step_count, 0);
  faults_.missing = false;
  model_->engine().OnExpertsChanged();
  sink_->WaitForFinished(1);
  EXPECT_EQ(sink_->finished()[0].end, SequenceEnd::kLength);
}

TEST_F(EngineTest, ExpertsThatStayAwayEndSequences) {
  faults_.missing = true;
  LocalModelOptions options;
  options.expert_loss_timeout = absl::Milliseconds(50);
  Create(options);
  Submit(Greedy(1, 5));
  sink_->WaitForFinished(1);
  EXPECT_EQ(sink_->finished()[0].status.code(), absl::StatusCode::kUnavailable);
  EXPECT_THAT(sink_->finished()[0].status.message(), HasSubstr("3,5"));
}

TEST_F(EngineTest, AFailedStepEndsItsSequencesOnly) {
  Create();
  faults_.fail_combine = true;
  Submit(Greedy(1, 5));
  sink_->WaitForFinished(1);
  // A disagreement between workers is not the request's fault.
  EXPECT_EQ(sink_->finished()[0].status.code(), absl::StatusCode::kInternal);
  faults_.fail_combine = false;
  Submit(Greedy(2, 5));
  sink_->WaitForFinished(2);
  EXPECT_EQ(sink_->finished()[1].end, SequenceEnd::kLength);
  EXPECT_EQ(sink_->tokens().size(), 5U);
}

TEST_F(EngineTest, NonFiniteLogitsEndTheirSequence) {
  Tensor norm(DType::kF32, {80});
  for (int i = 0; i < 80; ++i) {
    norm.data_as<float>()[i] = std::numeric_limits<float>::quiet_NaN();
  }
  LocalModelOptions options;
  options.edit_weights = [&](AttentionWeights& weights) { weights.final_norm = norm.view(); };
  Create(options);
  Submit(Greedy(1, 5));
  sink_->WaitForFinished(1);
  EXPECT_EQ(sink_->finished()[0].status.code(), absl::StatusCode::kInternal);
  EXPECT_THAT(sink_->finished()[0].status.message(), HasSubstr("not finite"));
  Submit(Greedy(2, 5));
  sink_->WaitForFinished(2);
}

// One token's embedding poisons the sequences that hold it, and no other of the same steps.
TEST_F(EngineTest, NonFiniteLogitsLeaveTheOthersAlone) {
  Create();
  Submit(Greedy(1, 20));
  sink_->WaitForFinished(1);
  const std::vector<TokenScore> expected = sink_->tokens();

  Tensor embedding;
  LocalModelOptions options;
  options.edit_weights = [&](AttentionWeights& weights) {
    embedding = Tensor(DType::kF32, weights.embedding.shape());
    std::memcpy(embedding.view().data(), weights.embedding.data(),
                static_cast<size_t>(weights.embedding.num_bytes()));
    const int64_t hidden = weights.embedding.dim(1);
    std::fill_n(embedding.data_as<float>() + 400 * hidden, hidden,
                std::numeric_limits<float>::infinity());
    weights.embedding = embedding.view();
  };
  sink_ = std::make_shared<RecordingSink>();
  Create(options);
  SequenceStart poisoned = Greedy(3, 20);
  poisoned.token_ids[1] = 400;
  Submit(poisoned);
  Submit(Greedy(1, 20));
  sink_->WaitForFinished(2);
  EXPECT_EQ(sink_->finished()[0].sequence_id, 3);
  EXPECT_EQ(sink_->finished()[0].status.code(), absl::StatusCode::kInternal);
  EXPECT_EQ(sink_->finished()[1].end, SequenceEnd::kLength);
  const std::vector<TokenScore> tokens = sink_->tokens();
  ASSERT_EQ(tokens.size(), expected.size());
  for (size_t i = 0; i < tokens.size(); ++i) EXPECT_EQ(tokens[i].logprob, expected[i].logprob);
}

TEST_F(EngineTest, EveryClientMayUseWhatIsFree) {
  Create();
  const auto wait_for_credits = [](RecordingSink& sink, int64_t started, int32_t slots) {
    sink.WaitFor([=](const RecordingSink& s) ABSL_NO_THREAD_SAFETY_ANALYSIS {
      return s.credits_.ready && s.credits_.handled_start_count == started &&
             s.credits_.state_slots == slots;
    });
  };
  wait_for_credits(*sink_, 0, 64);
  auto other = std::make_shared<RecordingSink>();
  model_->engine().AddClient(other);
  wait_for_credits(*other, 0, 64);
  SequenceStart start = Greedy(1, 3);
  start.pause_at_generated_count = 1;
  Submit(start);
  WaitForPauses(1);
  wait_for_credits(*sink_, 1, 63);
  wait_for_credits(*other, 0, 63);
  Submit(CancelSequence{.sequence_id = 1});
  wait_for_credits(*sink_, 1, 64);
  model_->engine().Drain();
  sink_->WaitFor([](const RecordingSink& s)
                     ABSL_NO_THREAD_SAFETY_ANALYSIS { return !s.credits_.ready; });
}

TEST_F(EngineTest, DrainHandsOverAtOnce) {
  Create();
  SubmitAndHold(Greedy(1, 100));
  model_->engine().Drain();
  Submit(Greedy(2, 3));  // was on its way
  faults_.block_combine = false;
  sink_->WaitFor([](const RecordingSink& s) ABSL_NO_THREAD_SAFETY_ANALYSIS {
    return s.num_preempted_ == 2 && !s.credits_.ready;
  });
  WaitUntilUnused();
  EXPECT_TRUE(sink_->finished().empty());
}

// The loop is inside Combine, where it waits for experts: clients hear of it nevertheless.
TEST_F(EngineTest, ALossDuringAStepIsTold) {
  Create();
  sink_->WaitFor([](const RecordingSink& s)
                     ABSL_NO_THREAD_SAFETY_ANALYSIS { return s.credits_.ready; });
  SubmitAndHold(Greedy(1, 5), 1);
  faults_.missing = true;
  model_->engine().OnExpertsChanged();
  sink_->WaitFor([](const RecordingSink& s)
                     ABSL_NO_THREAD_SAFETY_ANALYSIS { return !s.credits_.ready; });
  faults_.missing = false;
  faults_.block_combine = false;
  model_->engine().OnExpertsChanged();
  sink_->WaitForFinished(1);
  sink_->WaitFor([](const RecordingSink& s) ABSL_NO_THREAD_SAFETY_ANALYSIS {
    return s.credits_.ready && s.credits_.handled_start_count == 1;
  });
}

// What it holds is freed when the step ends, before another one starts.
TEST_F(EngineTest, ACancelDuringAStepIsHandledRightAfterIt) {
  Create();
  SubmitAndHold(Greedy(1, 5), 1);
  Submit(CancelSequence{.sequence_id = 1});
  faults_.block_combine = false;
  sink_->WaitForFinished(1);
  EXPECT_EQ(sink_->finished()[0].end, SequenceEnd::kCancelled);
  WaitUntilUnused();
  EXPECT_EQ(model_->stats().step_count, 1);
}

TEST_F(EngineTest, SamplingOutOfRangeIsRefused) {
  Create();
  SequenceStart min_p = Greedy(1, 5);
  min_p.sampling.min_p = 2.0F;
  Submit(min_p);
  SequenceStart top_p = Greedy(2, 5);
  top_p.sampling.top_p = std::numeric_limits<float>::quiet_NaN();
  Submit(top_p);
  SequenceStart candidates = Greedy(3, 5);
  candidates.candidate_count = -1;
  Submit(candidates);
  sink_->WaitForFinished(3);
  EXPECT_THAT(sink_->finished()[0].status.message(), HasSubstr("min_p 2"));
  EXPECT_THAT(sink_->finished()[1].status.message(), HasSubstr("top_p nan"));
  EXPECT_THAT(sink_->finished()[2].status.message(), HasSubstr("candidate_count -1"));
}

}  // namespace
}  // namespace m1
