// Several samples of one request through a whole router and a fake worker.
#include <gmock/gmock.h>
#include <grpcpp/create_channel.h>
#include <grpcpp/security/credentials.h>

#include <map>

#include "router/grpc_generate_call.h"
#include "router/sample_group.h"
#include "tests/router/router_fixture.h"

namespace m1 {
namespace {

class GenerateSamplesTest : public RouterFixture {
 protected:
  static v1::GenerateRequest Samples(int count, int max_new_tokens = 30) {
    v1::GenerateRequest request = TokenRequest({1, 2, 3}, max_new_tokens);
    request.mutable_sampling()->set_seed(7);
    request.mutable_sampling()->set_sample_count(count);
    return request;
  }
  // Splits the stream, and checks its order.
  static std::map<int, StreamResult> BySample(const StreamResult& result) {
    std::map<int, StreamResult> samples;
    for (const v1::GenerateResponse& response : result.responses) {
      StreamResult& sample = samples[response.sample_index()];
      EXPECT_EQ(sample.responses.empty(), response.has_prompt() && sample.responses.empty());
      EXPECT_EQ(sample.num_finishes(), 0);
      sample.responses.push_back(response);
    }
    return samples;
  }
};

TEST_F(GenerateSamplesTest, EachIsARequestWithItsOwnSeed) {
  AddWorker({.max_sequences = 3});
  StartRouter();
  ASSERT_TRUE(WaitUntilServing());
  v1::GenerateRequest request = Samples(8);
  request.mutable_output()->set_prompt_token_ids(true);
  request.mutable_output()->set_prompt_logprobs(true);

  const StreamResult result = Generate(request);

  ASSERT_TRUE(result.status.ok()) << result.status.error_message();
  const auto samples = BySample(result);
  ASSERT_EQ(samples.size(), 8U);
  for (const auto& [index, sample] : samples) {
    const uint64_t seed = SampleSeed(7, index);
    EXPECT_EQ(sample.prompt().seed(), seed);
    EXPECT_EQ(sample.prompt().token_count(), 3);
    EXPECT_EQ(sample.prompt().token_ids_size(), index == 0 ? 3 : 0);
    EXPECT_EQ(sample.PromptTokens().size(), index == 0 ? 3U : 0U);
    EXPECT_EQ(sample.Ids(), FakeAnswer({1, 2, 3}, seed, 30));
    EXPECT_EQ(sample.num_finishes(), 1);
    EXPECT_EQ(sample.finish().usage().completion_token_count(), 30);
    EXPECT_EQ(sample.finish().usage().cached_token_count(), 0);
    EXPECT_GT(sample.finish().timing().total().nanos(), 0);
  }
}

TEST_F(GenerateSamplesTest, AbortEndsEachWithAFinish) {
  AddWorker({.max_sequences = 2});
  StartRouter();
  ASSERT_TRUE(WaitUntilServing());
  v1::GenerateRequest request = Samples(4, 100000);
  request.set_request_id("a");
  grpc::ClientContext context;
  const auto stream = inference_->Generate(&context, request);
  v1::GenerateResponse response;
  while (!response.has_delta()) ASSERT_TRUE(stream->Read(&response));
  v1::AbortRequest abort;
  abort.set_request_id("a");
  grpc::ClientContext abort_context;
  v1::AbortResponse aborted;
  ASSERT_TRUE(control_->Abort(&abort_context, abort, &aborted).ok());
  std::map<int, v1::FinishReason> reasons;
  while (stream->Read(&response)) {
    if (response.has_finish()) reasons[response.sample_index()] = response.finish().reason();
  }
  EXPECT_TRUE(stream->Finish().ok());
  ASSERT_EQ(reasons.size(), 4U);
  for (const auto& [index, reason] : reasons) EXPECT_EQ(reason, v1::FINISH_REASON_CANCELLED);
  EXPECT_TRUE(Eventually([this] { return workers_[0]->num_sequences() == 0; }));
}

TEST_F(GenerateSamplesTest, ACancelFreesEach) {
  AddWorker({.max_sequences = 2});
  StartRouter();
  ASSERT_TRUE(WaitUntilServing());
  grpc::ClientContext context;
  const auto stream = inference_->Generate(&context, Samples(4, 100000));
  ASSERT_TRUE(Eventually([this] { return workers_[0]->num_sequences() == 2; }));
  context.TryCancel();
  (void)stream->Finish();
  EXPECT_TRUE(Eventually([this] { return workers_[0]->num_sequences() == 0; }));
  EXPECT_TRUE(Eventually([this] { return GetLoad().queued_request_count() == 0; }));
}

TEST_F(GenerateSamplesTest, TheFailureOfOneIsTheCalls) {
  AddWorker({.script = [](const v1::Start& start) {
    const bool fails = start.sampling().seed() == SampleSeed(7, 2);
    return std::vector<int32_t>(fails ? 3 : 5000, 65);
  }});
  StartRouter();
  ASSERT_TRUE(WaitUntilServing());
  const StreamResult result = Generate(Samples(4, 5000));
  EXPECT_EQ(result.status.error_code(), grpc::StatusCode::INTERNAL);
  EXPECT_EQ(result.num_finishes(), 0);
  EXPECT_TRUE(Eventually([this] { return workers_[0]->num_sequences() == 0; }));
}

TEST_F(GenerateSamplesTest, AWorkerThatDiesCostsNothing) {
  AddWorker({.max_sequences = 3});
  AddWorker({.max_sequences = 3});
  StartRouter();
  ASSERT_TRUE(WaitUntilServing());
  grpc::ClientContext context;
  const auto stream = inference_->Generate(&context, Samples(6, 200));
  StreamResult result;
  v1::GenerateResponse response;
  bool is_dead = false;
  while (stream->Read(&response)) {
    result.responses.push_back(response);
    if (!is_dead && result.responses.size() > 60) {
      workers_[0]->Die();
      is_dead = true;
    }
  }
  ASSERT_TRUE(stream->Finish().ok());
  ASSERT_TRUE(is_dead);
  for (const auto& [index, sample] : BySample(result)) {
    EXPECT_EQ(sample.Ids(), FakeAnswer({1, 2, 3}, SampleSeed(7, index), 200));
  }
}

// What is buffered is the stream's: who brings more is parked, who did not start yet is not
// started, and all go on, no more at once than the reader has read for.
TEST_F(GenerateSamplesTest, AReaderThatPausesGetsEverySample) {
  AddWorker({.max_sequences = 2, .step_time = absl::Microseconds(50)});
  StartRouter();
  ASSERT_TRUE(WaitUntilServing());
  grpc::ChannelArguments arguments;
  arguments.SetInt(GRPC_ARG_HTTP2_BDP_PROBE, 0);
  arguments.SetInt(GRPC_ARG_HTTP2_STREAM_LOOKAHEAD_BYTES, 65536);
  const auto inference = v1::Inference::NewStub(grpc::CreateCustomChannel(
      router_->server().target(), grpc::InsecureChannelCredentials(), arguments));
  v1::GenerateRequest request = Samples(4, 3000);
  request.mutable_output()->set_candidate_count(20);
  grpc::ClientContext context;
  const auto stream = inference->Generate(&context, request);
  ASSERT_TRUE(Eventually([this] { return workers_[0]->num_cancels() == 2; }));
  EXPECT_EQ(workers_[0]->num_starts(), 2);
  StreamResult result;
  v1::GenerateResponse response;
  while (stream->Read(&response)) result.responses.push_back(response);
  ASSERT_TRUE(stream->Finish().ok());
  const auto samples = BySample(result);
  ASSERT_EQ(samples.size(), 4U);
  for (const auto& [index, sample] : samples) {
    EXPECT_EQ(sample.Ids(), FakeAnswer({1, 2, 3}, SampleSeed(7, index), 3000));
  }
}

}  // namespace
}  // namespace m1
