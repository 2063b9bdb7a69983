// One call without a server: its writes are done when the test says so.
#include "gtest/gtest.h"

#include "router/grpc_generate_call.h"
#include "tests/support/status_matchers.h"

namespace m1 {
namespace {

class LargePieces final : public TokenPieces {
 public:
  absl::string_view Bytes(int32_t /*id*/) const override { return bytes_; }
  bool IsSpecial(int32_t /*id*/) const override { return false; }

 private:
  const std::string bytes_ = std::string(4096, 'x');
};

class NullLink final : public WorkerLink {
 public:
  void Send(WorkerCommand /*command*/) override {}
};

class NullCall final : public LiveCall {
 public:
  void Abort() override {}
  void CheckReader(absl::Time /*now*/) override {}
};

class GenerateCallTest : public testing::Test {
 protected:
  GenerateCallTest() { dispatcher_.SetLink(0, &link_); }

  std::shared_ptr<GenerateCall> BeginCall() {
    auto call = std::make_shared<GenerateCall>(GenerateCallContext{.dispatcher = &dispatcher_,
                                                                   .registry = &registry_,
                                                                   .pieces = &pieces_,
                                                                   .clock = &clock_},
                                               &server_context_);
    GenerationRequest request;
    request.request_id = "id";
    request.prompt_ids.assign(400, 1);
    request.max_new_tokens = 10;
    call->Begin(std::move(request));
    return call;
  }

  static std::vector<AnswerToken> Tokens(size_t count) {
    return std::vector<AnswerToken>(
        count, AnswerToken{.id = 1, .logprob = -1, .rank = 1, .candidates = {}});
  }

  RealClock clock_;
  NullLink link_;
  CallRegistry registry_;
  LargePieces pieces_;
  Dispatcher dispatcher_{SchedulerOptions{.num_workers = 1}, &clock_, [](bool /*ready*/) {}};
  grpc::CallbackServerContext server_context_;
};

// The scheduler parks a sequence after the whole step: what comes in between must not look as if
// nobody waited for Resume.
TEST_F(GenerateCallTest, FullStaysFullUntilHalfIsRead) {
  const auto call = BeginCall();
  for (int32_t first = 0; first < 240; first += 60) {  // messages of a quarter of a megabyte
    EXPECT_EQ(call->OnPromptTokens(0, first, Tokens(60)), SinkState::kTakesMore);
  }
  EXPECT_EQ(call->OnPromptTokens(0, 240, Tokens(60)), SinkState::kIsFull);
  call->OnWriteDone(true);  // of the first message, which says how long the prompt is
  SinkState state = call->OnTokens(0, Tokens(1), clock_.Now());
  EXPECT_EQ(state, SinkState::kIsFull);
  int num_writes = 0;
  for (; state == SinkState::kIsFull && num_writes < 100; ++num_writes) {
    call->OnWriteDone(true);
    state = call->OnTokens(0, Tokens(1), clock_.Now());
  }
  EXPECT_EQ(state, SinkState::kTakesMore);
  EXPECT_GT(num_writes, 1);
  call->OnCancel();
  call->OnDone();
}

TEST_F(GenerateCallTest, AbortedPastTheDeadlineItSaysSo) {
  auto request = std::make_shared<GenerationRequest>();
  request->deadline = absl::FromUnixSeconds(10);
  const SampleAnswer answer(request, 0, &pieces_, absl::UnixEpoch());
  const auto reason_at = [&](int seconds) {
    return answer.MakeFinish(AnswerEnd::kCancelled, 0, absl::FromUnixSeconds(seconds)).reason();
  };
  EXPECT_EQ(reason_at(9), v1::FINISH_REASON_CANCELLED);
  EXPECT_EQ(reason_at(10), v1::FINISH_REASON_DEADLINE);
}

TEST_F(GenerateCallTest, IdIsFreeWhenTheEndIsDecided) {
  const auto call = BeginCall();
  EXPECT_EQ(registry_.Add("id", std::make_shared<NullCall>()).code(),
            absl::StatusCode::kAlreadyExists);
  call->OnFinished(0, AnswerEnd::kLength, 0, clock_.Now());
  const auto next = std::make_shared<NullCall>();
  EXPECT_OK(registry_.Add("id", next));
  EXPECT_EQ(registry_.size(), 2U);  // the first has not been read to its end

  call->OnCancel();
  call->OnDone();
  EXPECT_EQ(registry_.size(), 1U);
  EXPECT_TRUE(registry_.Abort("id"));  // the next one's
  registry_.Remove("id", next.get());
  EXPECT_FALSE(registry_.Abort("id"));
}

}  // namespace
}  // namespace m1
