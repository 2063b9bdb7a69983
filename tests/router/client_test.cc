// Clients that leave, are slow, come twice, come in crowds, or are aborted.
#include <gmock/gmock.h>
#include <grpcpp/create_channel.h>
#include <grpcpp/security/credentials.h>

#include <atomic>
#include <thread>

#include "absl/time/clock.h"

#include "tests/router/router_fixture.h"

namespace m1 {
namespace {

using testing::HasSubstr;

class ClientTest : public RouterFixture {
 protected:
  bool NothingIsLeft() {
    return Eventually([this] {
      const v1::GetLoadResponse load = GetLoad();
      int64_t outstanding = 0;
      int held = 0;
      for (const auto& worker : load.workers()) outstanding += worker.outstanding_token_count();
      for (const auto& worker : workers_) held += worker->num_sequences();
      return load.queued_request_count() == 0 && load.running_request_count() == 0 &&
             outstanding == 0 && held == 0 && router_->registry()->size() == 0;
    });
  }
};

TEST_F(ClientTest, CancellationFreesTheSequence) {
  AddWorker();
  StartRouter();
  ASSERT_TRUE(WaitUntilServing());
  grpc::ClientContext context;
  const auto stream = inference_->Generate(&context, TokenRequest({1}, 8000));
  v1::GenerateResponse response;
  for (int i = 0; i < 5; ++i) ASSERT_TRUE(stream->Read(&response));
  context.TryCancel();
  EXPECT_EQ(stream->Finish().error_code(), grpc::StatusCode::CANCELLED);
  EXPECT_TRUE(NothingIsLeft());
  EXPECT_EQ(workers_[0]->num_cancels(), 1);
}

TEST_F(ClientTest, CancellationInTheQueueFreesThePlace) {
  AddWorker({.is_ready = false});
  StartRouter();
  grpc::ClientContext context;
  const auto stream = inference_->Generate(&context, TokenRequest({1}, 10));
  v1::GenerateResponse response;
  ASSERT_TRUE(stream->Read(&response));  // the prompt
  EXPECT_EQ(GetLoad().queued_request_count(), 1);
  context.TryCancel();
  (void)stream->Finish();
  EXPECT_TRUE(NothingIsLeft());
}

TEST_F(ClientTest, DeadlineEndsTheRequest) {
  AddWorker();
  StartRouter();
  ASSERT_TRUE(WaitUntilServing());
  grpc::ClientContext context;
  context.set_deadline(std::chrono::system_clock::now() + std::chrono::milliseconds(200));
  const StreamResult result = Generate(TokenRequest({1}, 8000), &context);
  EXPECT_EQ(result.status.error_code(), grpc::StatusCode::DEADLINE_EXCEEDED);
  EXPECT_FALSE(result.Ids().empty());
  EXPECT_TRUE(NothingIsLeft());
}

TEST_F(ClientTest, QueueTimeoutSaysQueued) {
  AddWorker({.is_ready = false});
  StartRouter();
  v1::GenerateRequest request = TokenRequest({1}, 5);
  request.mutable_queue_timeout()->set_nanos(200000000);
  const StreamResult result = Generate(request);
  EXPECT_EQ(result.status.error_code(), grpc::StatusCode::DEADLINE_EXCEEDED);
  EXPECT_THAT(result.status.error_message(), HasSubstr("queued"));
}

TEST_F(ClientTest, RequestIdInFlightTwiceIsRefused) {
  AddWorker();
  StartRouter();
  ASSERT_TRUE(WaitUntilServing());
  v1::GenerateRequest request = TokenRequest({1}, 8000);
  request.set_request_id("same");
  grpc::ClientContext context;
  const auto stream = inference_->Generate(&context, request);
  v1::GenerateResponse response;
  ASSERT_TRUE(stream->Read(&response));
  EXPECT_EQ(Generate(request).status.error_code(), grpc::StatusCode::ALREADY_EXISTS);
  context.TryCancel();
  (void)stream->Finish();
  ASSERT_TRUE(NothingIsLeft());
  request.mutable_stopping()->set_max_new_tokens(3);
  EXPECT_TRUE(Generate(request).status.ok());
}

TEST_F(ClientTest, RequestIdIsFreeWhenFinishIsSeen) {
  AddWorker();
  StartRouter();
  ASSERT_TRUE(WaitUntilServing());
  v1::GenerateRequest request = TokenRequest({1}, 1);
  request.set_request_id("again");
  for (int i = 0; i < 200; ++i) {
    grpc::ClientContext context;
    const auto stream = inference_->Generate(&context, request);
    v1::GenerateResponse response;
    while (stream->Read(&response) && !response.has_finish()) {
    }
    ASSERT_TRUE(response.has_finish()) << i << ": " << stream->Finish().error_message();
    // The stream is still open here.
    const StreamResult second = Generate(request);
    ASSERT_TRUE(second.status.ok()) << i << ": " << second.status.error_message();
    ASSERT_TRUE(stream->Finish().ok());
  }
  EXPECT_TRUE(NothingIsLeft());
}

TEST_F(ClientTest, AbortFinishesTheStream) {
  AddWorker();
  StartRouter();
  ASSERT_TRUE(WaitUntilServing());
  v1::GenerateRequest request = TokenRequest({1}, 8000);
  request.set_request_id("to-abort");
  std::thread aborter([this] {
    ASSERT_TRUE(Eventually([this] { return workers_[0]->num_sequences() == 1; }));
    grpc::ClientContext context;
    v1::AbortRequest abort;
    abort.set_request_id("to-abort");
    v1::AbortResponse response;
    ASSERT_TRUE(control_->Abort(&context, abort, &response).ok());
    EXPECT_TRUE(response.found());
  });
  const StreamResult result = Generate(request);
  aborter.join();
  ASSERT_TRUE(result.status.ok()) << result.status.error_message();
  EXPECT_EQ(result.finish().reason(), v1::FINISH_REASON_CANCELLED);
  EXPECT_TRUE(NothingIsLeft());

  grpc::ClientContext context;
  v1::AbortRequest abort;
  abort.set_request_id("to-abort");
  v1::AbortResponse response;
  ASSERT_TRUE(control_->Abort(&context, abort, &response).ok());
  EXPECT_FALSE(response.found());
  grpc::ClientContext second;
  EXPECT_EQ(control_->Abort(&second, {}, &response).error_code(),
            grpc::StatusCode::INVALID_ARGUMENT);
}

TEST_F(ClientTest, FullQueueIsResourceExhaustedWithRetryInfo) {
  AddWorker({.is_ready = false});
  RouterOptions options;
  options.queue_size = 1;
  StartRouter(options);
  grpc::ClientContext context;
  const auto waiting = inference_->Generate(&context, TokenRequest({1}, 10));
  ASSERT_TRUE(Eventually([this] { return GetLoad().queued_request_count() == 1; }));
  const StreamResult result = Generate(TokenRequest({1}, 10));
  EXPECT_EQ(result.status.error_code(), grpc::StatusCode::RESOURCE_EXHAUSTED);
  EXPECT_THAT(result.status.error_details(), HasSubstr("google.rpc.RetryInfo"));
  EXPECT_TRUE(result.responses.empty());
  context.TryCancel();
  (void)waiting->Finish();
}

TEST_F(ClientTest, BadRequestDetailsReachTheClient) {
  AddWorker();
  StartRouter();
  v1::GenerateRequest request = TokenRequest({1}, 10);
  request.mutable_sampling()->set_top_p(1.5F);
  const StreamResult result = Generate(request);
  EXPECT_EQ(result.status.error_code(), grpc::StatusCode::INVALID_ARGUMENT);
  EXPECT_THAT(result.status.error_details(), HasSubstr("google.rpc.BadRequest"));
  EXPECT_THAT(result.status.error_details(), HasSubstr("sampling.top_p"));
  v1::GenerateRequest empty;
  empty.set_text("");
  EXPECT_THAT(Generate(empty).status.error_message(), HasSubstr("text"));
}

// A connection that takes 64 KiB before the reader reads. (The default grows to megabytes.)
std::unique_ptr<v1::Inference::Stub> NarrowStub(const std::string& target) {
  grpc::ChannelArguments arguments;
  arguments.SetInt(GRPC_ARG_HTTP2_BDP_PROBE, 0);
  arguments.SetInt(GRPC_ARG_HTTP2_STREAM_LOOKAHEAD_BYTES, 65536);
  return v1::Inference::NewStub(
      grpc::CreateCustomChannel(target, grpc::InsecureChannelCredentials(), arguments));
}

// 8000 prompt tokens with 20 candidates are 3 MB at once: above what is buffered.
v1::GenerateRequest LargeAnswer() {
  v1::GenerateRequest request;
  for (int i = 0; i < 8000; ++i) request.mutable_token_ids()->add_ids(i % 256);
  request.mutable_stopping()->set_max_new_tokens(0);
  request.mutable_output()->set_prompt_logprobs(true);
  request.mutable_output()->set_candidate_count(20);
  return request;
}

TEST_F(ClientTest, ReaderThatPausesGetsEverything) {
  AddWorker({.prompt_chunk_tokens = 500});
  StartRouter();
  ASSERT_TRUE(WaitUntilServing());
  const auto inference = NarrowStub(router_->server().target());
  grpc::ClientContext context;
  const auto stream = inference->Generate(&context, LargeAnswer());
  // The sequence is taken off its worker, though its answer is not complete.
  ASSERT_TRUE(Eventually([this] { return workers_[0]->num_cancels() > 0; }));
  StreamResult result;
  v1::GenerateResponse response;
  while (stream->Read(&response)) result.responses.push_back(response);
  ASSERT_TRUE(stream->Finish().ok());
  const std::vector<v1::Token> tokens = result.PromptTokens();
  ASSERT_EQ(tokens.size(), 8000U);
  for (size_t i = 0; i < tokens.size(); ++i) EXPECT_EQ(tokens[i].id(), static_cast<int>(i) % 256);
  EXPECT_EQ(result.num_finishes(), 1);
  EXPECT_GT(workers_[0]->starts().size(), 1U);
  EXPECT_TRUE(NothingIsLeft());
}

TEST_F(ClientTest, ReaderThatNeverReadsIsGivenUp) {
  AddWorker({.prompt_chunk_tokens = 500});
  RouterOptions options;
  options.slow_reader_timeout = absl::Milliseconds(400);
  StartRouter(options);
  ASSERT_TRUE(WaitUntilServing());
  const auto inference = NarrowStub(router_->server().target());
  grpc::ClientContext context;
  const auto stream = inference->Generate(&context, LargeAnswer());
  // Others are served meanwhile, and in the end nothing is held.
  EXPECT_TRUE(Generate(TokenRequest({1}, 20)).status.ok());
  ASSERT_TRUE(Eventually([this] { return GetLoad().running_request_count() == 0; }));
  absl::SleepFor(absl::Milliseconds(600));
  v1::GenerateResponse response;
  int num_messages = 0;
  while (stream->Read(&response)) ++num_messages;
  EXPECT_EQ(stream->Finish().error_code(), grpc::StatusCode::RESOURCE_EXHAUSTED);
  EXPECT_TRUE(NothingIsLeft());
}

TEST_F(ClientTest, ReaderThatIgnoresEvenTheEndIsCutOff) {
  AddWorker({.prompt_chunk_tokens = 500});
  RouterOptions options;
  options.slow_reader_timeout = absl::Milliseconds(200);
  StartRouter(options);
  ASSERT_TRUE(WaitUntilServing());
  const auto inference = NarrowStub(router_->server().target());
  grpc::ClientContext context;
  const auto stream = inference->Generate(&context, LargeAnswer());
  EXPECT_TRUE(Eventually([this] { return workers_[0]->starts().size() == 1; }));
  EXPECT_TRUE(NothingIsLeft());
  context.TryCancel();
  (void)stream->Finish();
}

TEST_F(ClientTest, TwoHundredVanishingClientsLeaveNothing) {
  AddWorker();
  AddWorker();
  StartRouter();
  ASSERT_TRUE(WaitUntilServing());
  std::vector<std::thread> clients;
  for (int i = 0; i < 200; ++i) {
    clients.emplace_back([this, i] {
      grpc::ClientContext context;
      context.set_deadline(std::chrono::system_clock::now() + std::chrono::seconds(20));
      const auto stream = inference_->Generate(&context, TokenRequest({i % 256}, 8000));
      v1::GenerateResponse response;
      for (int reads = 0; reads < i % 7; ++reads) {
        if (!stream->Read(&response)) break;
      }
      absl::SleepFor(absl::Milliseconds(i % 13));
      context.TryCancel();
      (void)stream->Finish();
    });
  }
  for (std::thread& client : clients) client.join();
  EXPECT_TRUE(NothingIsLeft());
}

TEST_F(ClientTest, ClientsThatLeaveWhileTheirPromptIsEncodedLeaveNothing) {
  AddWorker();
  StartRouter();
  ASSERT_TRUE(WaitUntilServing());
  v1::GenerateRequest request;
  request.set_text(std::string(7000, ' ') + std::string(20000, 'a'));  // beyond the inline size
  for (int i = 0; i < 40; ++i) {
    grpc::ClientContext context;
    const auto stream = inference_->Generate(&context, request);
    absl::SleepFor(absl::Microseconds(200 * (i % 10)));
    context.TryCancel();
    (void)stream->Finish();
  }
  EXPECT_TRUE(NothingIsLeft());
}

TEST_F(ClientTest, ManyStreamsAreNotMixedUp) {
  AddWorker();
  AddWorker();
  StartRouter();
  ASSERT_TRUE(WaitUntilServing());
  std::vector<std::thread> clients;
  std::atomic<int> num_right = 0;
  for (int i = 0; i < 200; ++i) {
    clients.emplace_back([this, i, &num_right] {
      v1::GenerateRequest request = TokenRequest({i % 256, i / 256}, 50);
      request.mutable_sampling()->set_seed(static_cast<uint64_t>(i));
      const StreamResult result = Generate(request);
      if (result.status.ok() &&
          result.Ids() == FakeAnswer({i % 256, i / 256}, static_cast<uint64_t>(i), 50)) {
        ++num_right;
      }
    });
  }
  for (std::thread& client : clients) client.join();
  EXPECT_EQ(num_right, 200);
  EXPECT_TRUE(NothingIsLeft());
}

TEST_F(ClientTest, DrainRefusesNewRequestsAndFinishesOldOnes) {
  AddWorker();
  StartRouter();
  ASSERT_TRUE(WaitUntilServing());
  StreamResult result;
  std::thread client([this, &result] { result = Generate(TokenRequest({1}, 200)); });
  ASSERT_TRUE(Eventually([this] { return workers_[0]->num_sequences() == 1; }));
  grpc::ClientContext context;
  v1::DrainResponse drained;
  ASSERT_TRUE(control_->Drain(&context, {}, &drained).ok());
  EXPECT_EQ(drained.in_flight_request_count(), 1);
  EXPECT_EQ(Generate(TokenRequest({1}, 1)).status.error_code(), grpc::StatusCode::UNAVAILABLE);
  EXPECT_FALSE(IsServing());
  EXPECT_TRUE(GetLoad().draining());
  router_->Stop();
  client.join();
  EXPECT_TRUE(result.status.ok());
  EXPECT_EQ(result.Ids().size(), 200U);
}

}  // namespace
}  // namespace m1
