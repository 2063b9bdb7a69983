// Generate, Tokenize, Detokenize and GetModelInfo through a whole router and a fake worker.
#include <gmock/gmock.h>

#include <cmath>

#include "tests/router/router_fixture.h"

namespace m1 {
namespace {

using testing::ElementsAre;
using testing::HasSubstr;

class GenerateTest : public RouterFixture {};

TEST_F(GenerateTest, StreamsTheWorkersTokens) {
  AddWorker();
  StartRouter();
  ASSERT_TRUE(WaitUntilServing());
  v1::GenerateRequest request = TokenRequest({1, 2, 3}, 50);
  request.set_request_id("r-1");
  request.mutable_sampling()->set_seed(7);
  request.mutable_output()->set_candidate_count(3);

  const StreamResult result = Generate(request);

  ASSERT_TRUE(result.status.ok()) << result.status.error_message();
  EXPECT_EQ(result.prompt().token_count(), 3);
  EXPECT_EQ(result.prompt().seed(), 7U);
  EXPECT_EQ(result.Ids(), FakeAnswer({1, 2, 3}, 7, 50));
  EXPECT_EQ(result.num_finishes(), 1);
  EXPECT_EQ(result.finish().reason(), v1::FINISH_REASON_LENGTH);
  EXPECT_EQ(result.finish().usage().prompt_token_count(), 3);
  EXPECT_EQ(result.finish().usage().completion_token_count(), 50);
  EXPECT_GT(result.finish().timing().total().nanos(), 0);
  for (const v1::GenerateResponse& response : result.responses) {
    EXPECT_EQ(response.request_id(), "r-1");
    for (const v1::Token& token : response.delta().tokens()) {
      EXPECT_EQ(token.bytes(), std::string(1, static_cast<char>(token.id())));
      EXPECT_EQ(token.logprob(), FakeLogprob(token.id()));
      EXPECT_EQ(token.rank(), token.id() % 5 + 1);
      ASSERT_EQ(token.candidates_size(), 3);
      EXPECT_EQ(token.candidates(0).id(), token.id());
    }
  }
}

TEST_F(GenerateTest, TextOfDeltasEqualsDetokenize) {
  AddWorker();
  StartRouter();
  ASSERT_TRUE(WaitUntilServing());
  v1::GenerateRequest request = TokenRequest({9}, 300);  // bytes of every kind, half characters too
  request.mutable_sampling()->set_seed(3);

  const StreamResult result = Generate(request);

  ASSERT_TRUE(result.status.ok());
  v1::DetokenizeRequest detokenize;
  for (int32_t id : result.Ids()) detokenize.add_ids(id);
  v1::DetokenizeResponse detokenized;
  grpc::ClientContext context;
  ASSERT_TRUE(inference_->Detokenize(&context, detokenize, &detokenized).ok());
  EXPECT_EQ(result.Text(), detokenized.text());
}

TEST_F(GenerateTest, FillsInTheDefaults) {
  AddWorker();
  StartRouter();
  ASSERT_TRUE(WaitUntilServing());
  v1::GenerateRequest request;
  request.set_text("ab");
  request.mutable_stopping()->set_max_new_tokens(1);
  const StreamResult first = Generate(request);
  const StreamResult second = Generate(request);
  ASSERT_TRUE(first.status.ok());

  EXPECT_NE(first.prompt().seed(), second.prompt().seed());
  EXPECT_NE(first.responses[0].request_id(), second.responses[0].request_id());
  const v1::Start start = workers_[0]->starts()[0];
  EXPECT_EQ(start.sampling().temperature(), 1.0F);
  EXPECT_EQ(start.sampling().top_p(), 0.95F);
  EXPECT_EQ(start.sampling().top_k(), 0);
  EXPECT_EQ(start.sampling().min_p(), 0.0F);
  EXPECT_EQ(start.sampling().seed(), first.prompt().seed());
  EXPECT_THAT(start.limits().stop_token_ids(), ElementsAre(kTinyEos));
  EXPECT_EQ(start.limits().max_repetition_run(), 3000);
  EXPECT_NEAR(std::exp(start.limits().repetition_logprob()), 0.99, 1e-15);
  EXPECT_EQ(start.pause_at_generated_count(), 0);
}

TEST_F(GenerateTest, TellsTheWorkerHowToSample) {
  AddWorker();
  StartRouter();
  ASSERT_TRUE(WaitUntilServing());
  v1::GenerateRequest request = TokenRequest({1, 2, 3}, 5);
  v1::Sampling& sampling = *request.mutable_sampling();
  sampling.set_temperature(0.5F);
  sampling.set_top_p(0.75F);
  sampling.set_top_k(9);
  sampling.set_min_p(0.125F);
  sampling.set_seed(11);
  sampling.set_repetition_penalty(1.25F);
  sampling.set_presence_penalty(-1.5F);
  sampling.set_frequency_penalty(2.5F);
  (*sampling.mutable_logit_bias())[7] = -3.5F;
  (*sampling.mutable_logit_bias())[8] = 4.0F;
  request.mutable_stopping()->set_min_new_tokens(4);
  request.set_generated_prompt_token_count(2);

  ASSERT_TRUE(Generate(request).status.ok());

  const v1::Start start = workers_[0]->starts()[0];
  EXPECT_EQ(start.sampling().temperature(), 0.5F);
  EXPECT_EQ(start.sampling().top_p(), 0.75F);
  EXPECT_EQ(start.sampling().top_k(), 9);
  EXPECT_EQ(start.sampling().min_p(), 0.125F);
  EXPECT_EQ(start.sampling().seed(), 11U);
  EXPECT_EQ(start.sampling().repetition_penalty(), 1.25F);
  EXPECT_EQ(start.sampling().presence_penalty(), -1.5F);
  EXPECT_EQ(start.sampling().frequency_penalty(), 2.5F);
  EXPECT_EQ(start.sampling().logit_bias().size(), 2U);
  EXPECT_EQ(start.sampling().logit_bias().at(7), -3.5F);
  EXPECT_EQ(start.limits().min_new_tokens(), 4);
  EXPECT_EQ(start.prompt_token_count(), 3);
  EXPECT_EQ(start.generated_prompt_token_count(), 2);
}

TEST_F(GenerateTest, BoundsTheAnswerByTheContext) {
  AddWorker({.max_context_tokens = 100});
  StartRouter();
  ASSERT_TRUE(WaitUntilServing());
  v1::GenerateRequest request = TokenRequest({1, 2, 3}, 0);
  request.mutable_stopping()->clear_max_new_tokens();

  const StreamResult result = Generate(request);

  EXPECT_EQ(workers_[0]->starts()[0].limits().max_new_tokens(), 97);
  EXPECT_EQ(result.finish().usage().completion_token_count(), 97);
  EXPECT_EQ(result.finish().reason(), v1::FINISH_REASON_LENGTH);
}

TEST_F(GenerateTest, RefusesAPromptBeyondTheContext) {
  AddWorker({.kv_blocks = 1});
  StartRouter();
  ASSERT_TRUE(WaitUntilServing());
  const StreamResult result = Generate(TokenRequest(std::vector<int32_t>(65, 1), 1));
  EXPECT_EQ(result.status.error_code(), grpc::StatusCode::INVALID_ARGUMENT);
  EXPECT_THAT(result.status.error_message(), HasSubstr("token_ids.ids"));
}

TEST_F(GenerateTest, EndsAtEosUnlessIgnored) {
  const std::vector<int32_t> answer = {'h', 'i', kTinyEos, '!', '!'};
  AddWorker({.script = [answer](const v1::Start&) { return answer; }});
  StartRouter();
  ASSERT_TRUE(WaitUntilServing());

  const StreamResult stopped = Generate(TokenRequest({1}, 5));
  v1::GenerateRequest request = TokenRequest({1}, 5);
  request.mutable_stopping()->set_ignore_eos(true);
  const StreamResult ignored = Generate(request);

  EXPECT_THAT(stopped.Ids(), ElementsAre('h', 'i', kTinyEos));
  EXPECT_EQ(stopped.Text(), "hi");
  EXPECT_EQ(stopped.finish().reason(), v1::FINISH_REASON_STOP);
  EXPECT_EQ(stopped.finish().stop_token_id(), kTinyEos);
  EXPECT_EQ(ignored.Ids(), answer);
  EXPECT_EQ(ignored.Text(), "hi!!");
  EXPECT_EQ(ignored.finish().reason(), v1::FINISH_REASON_LENGTH);
}

TEST_F(GenerateTest, EndsAtAStopTokenAndHidesItsText) {
  AddWorker({.script = [](const v1::Start&) { return std::vector<int32_t>{'a', 'b', 'c', 'd'}; }});
  StartRouter();
  ASSERT_TRUE(WaitUntilServing());
  v1::GenerateRequest request = TokenRequest({1}, 9);
  request.mutable_stopping()->add_stop_token_ids('c');

  const StreamResult result = Generate(request);

  EXPECT_THAT(result.Ids(), ElementsAre('a', 'b', 'c'));
  EXPECT_EQ(result.Text(), "ab");
  EXPECT_EQ(result.finish().stop_token_id(), 'c');
}

TEST_F(GenerateTest, SplitsAChatAnswerIntoChannels) {
  const std::string text =
      "<think>\nhm\n</think>\nIt is:\n<tool_calls>\n{\"name\": \"f\", \"arguments\": {\"x\": "
      "1}}\n</tool_calls>";
  AddWorker({.script = [text](const v1::Start&) {
    std::vector<int32_t> ids(text.begin(), text.end());
    ids.push_back(kTinyEos);
    return ids;
  }});
  StartRouter();
  ASSERT_TRUE(WaitUntilServing());
  v1::GenerateRequest request;
  v1::ChatMessage* message = request.mutable_chat()->add_messages();
  message->set_role(v1::ROLE_USER);
  message->set_text("Call f");
  v1::Tool* tool = request.mutable_chat()->add_tools();
  tool->set_name("f");
  tool->set_parameters_json("{}");

  const StreamResult result = Generate(request);

  ASSERT_TRUE(result.status.ok()) << result.status.error_message();
  std::string reasoning;
  std::string content;
  int num_calls = 0;
  for (const v1::GenerateResponse& response : result.responses) {
    const v1::Delta& delta = response.delta();
    if (delta.channel() == v1::CHANNEL_REASONING) reasoning += delta.text();
    if (delta.channel() == v1::CHANNEL_CONTENT) content += delta.text();
    if (!delta.has_tool_call()) continue;
    ++num_calls;
    EXPECT_EQ(delta.channel(), v1::CHANNEL_TOOL_CALL);
    EXPECT_EQ(delta.tool_call().name(), "f");
    EXPECT_EQ(delta.tool_call().arguments_json(), "{\"x\": 1}");
  }
  EXPECT_EQ(reasoning, "hm");
  EXPECT_EQ(content, "It is:");
  EXPECT_EQ(num_calls, 1);
  EXPECT_EQ(result.Ids().size(), text.size() + 1);
  EXPECT_EQ(result.finish().reason(), v1::FINISH_REASON_TOOL_CALLS);
  EXPECT_FALSE(result.finish().has_stop_token_id());
  EXPECT_EQ(result.finish().usage().reasoning_token_count(), 4);  // "\nhm\n"
}

TEST_F(GenerateTest, ScoresThePromptAlone) {
  AddWorker({.prompt_chunk_tokens = 7});
  StartRouter();
  ASSERT_TRUE(WaitUntilServing());
  std::vector<int32_t> prompt;
  for (int i = 0; i < 50; ++i) prompt.push_back(i * 3);
  v1::GenerateRequest request = TokenRequest(prompt, 0);
  request.mutable_output()->set_prompt_logprobs(true);
  request.mutable_output()->set_prompt_token_ids(true);
  request.mutable_output()->set_candidate_count(2);

  const StreamResult result = Generate(request);

  ASSERT_TRUE(result.status.ok());
  EXPECT_THAT(result.prompt().token_ids(), testing::ElementsAreArray(prompt));
  const std::vector<v1::Token> tokens = result.PromptTokens();
  ASSERT_EQ(tokens.size(), prompt.size());
  EXPECT_EQ(tokens[0].rank(), 0);
  for (size_t i = 1; i < tokens.size(); ++i) {
    EXPECT_EQ(tokens[i].id(), prompt[i]);
    EXPECT_EQ(tokens[i].logprob(), FakeLogprob(prompt[i]));
    EXPECT_EQ(tokens[i].candidates_size(), 2);
  }
  EXPECT_TRUE(result.Ids().empty());
  EXPECT_EQ(result.finish().reason(), v1::FINISH_REASON_LENGTH);
}

TEST_F(GenerateTest, SplitsALongPromptIntoMessages) {
  constexpr int kTokens = 400000;
  AddWorker({.max_context_tokens = 1000000, .prompt_chunk_tokens = 20000});
  RouterOptions options;
  StartRouter(options);
  ASSERT_TRUE(WaitUntilServing());
  // The model's own context is 8192 tokens, so this one is refused by the router ...
  const StreamResult refused = Generate(TokenRequest(std::vector<int32_t>(kTokens, 300), 0));
  EXPECT_EQ(refused.status.error_code(), grpc::StatusCode::INVALID_ARGUMENT);
  // ... and this one fits.
  v1::GenerateRequest request = TokenRequest(std::vector<int32_t>(8000, 300), 0);
  request.mutable_output()->set_prompt_logprobs(true);
  request.mutable_output()->set_candidate_count(20);
  const StreamResult result = Generate(request);
  ASSERT_TRUE(result.status.ok()) << result.status.error_message();
  EXPECT_EQ(result.PromptTokens().size(), 8000U);
  EXPECT_GT(result.responses.size(), 2U);
  for (const v1::GenerateResponse& response : result.responses) {
    EXPECT_LE(response.ByteSizeLong(), 1U << 20);
  }
}

TEST_F(GenerateTest, PassesOnTheWorkersError) {
  AddWorker({.script = [](const v1::Start&) { return std::vector<int32_t>{'a'}; }});
  StartRouter();
  ASSERT_TRUE(WaitUntilServing());
  const StreamResult result = Generate(TokenRequest({1}, 5));
  EXPECT_EQ(result.status.error_code(), grpc::StatusCode::INTERNAL);
  EXPECT_EQ(result.status.error_message(), "non-finite logits");
  EXPECT_EQ(result.Ids().size(), 1U);
  EXPECT_EQ(result.num_finishes(), 0);
}

TEST_F(GenerateTest, TokenizesAndDetokenizes) {
  AddWorker();
  StartRouter();
  v1::TokenizeRequest request;
  request.set_text("Hello <end_of_sentence> \xF0\x9F\x98\x80");
  v1::TokenizeResponse tokens;
  {
    grpc::ClientContext context;
    ASSERT_TRUE(inference_->Tokenize(&context, request, &tokens).ok());
  }
  std::string bytes;
  for (const std::string& token : tokens.tokens()) bytes += token;
  EXPECT_EQ(bytes, request.text());
  for (int32_t id : tokens.ids()) EXPECT_LT(id, 508);  // no control token by spelling

  v1::DetokenizeRequest back;
  *back.mutable_ids() = tokens.ids();
  back.add_ids(kTinyEos);
  back.add_ids(0xFF);
  v1::DetokenizeResponse text;
  grpc::ClientContext context;
  ASSERT_TRUE(inference_->Detokenize(&context, back, &text).ok());
  EXPECT_EQ(text.text(), request.text() + "<end_of_sentence>\xEF\xBF\xBD");
}

TEST_F(GenerateTest, TokenizesLongText) {
  AddWorker();
  StartRouter();
  v1::TokenizeRequest request;
  for (int i = 0; i < 50000; ++i) request.mutable_text()->append("word" + std::to_string(i) + " ");
  v1::TokenizeResponse tokens;
  grpc::ClientContext context;
  ASSERT_TRUE(inference_->Tokenize(&context, request, &tokens).ok());
  std::string bytes;
  for (const std::string& token : tokens.tokens()) bytes += token;
  EXPECT_EQ(bytes, request.text());
}

TEST_F(GenerateTest, PromptThatFillsTheContextEndsAtOnce) {
  AddWorker({.max_context_tokens = 100});
  StartRouter();
  ASSERT_TRUE(WaitUntilServing());
  const StreamResult result = Generate(TokenRequest(std::vector<int32_t>(100, 1), 5));
  ASSERT_TRUE(result.status.ok()) << result.status.error_message();
  EXPECT_TRUE(result.Ids().empty());
  EXPECT_EQ(result.finish().reason(), v1::FINISH_REASON_LENGTH);
}

TEST_F(GenerateTest, UnaryCallsNameTheBadField) {
  AddWorker();
  StartRouter();
  v1::TokenizeResponse tokens;
  {
    grpc::ClientContext context;
    const grpc::Status status = inference_->Tokenize(&context, {}, &tokens);
    EXPECT_EQ(status.error_code(), grpc::StatusCode::INVALID_ARGUMENT);
    EXPECT_THAT(status.error_message(), HasSubstr("input"));
  }
  {
    grpc::ClientContext context;
    v1::TokenizeRequest request;
    request.mutable_chat()->add_messages();
    EXPECT_THAT(inference_->Tokenize(&context, request, &tokens).error_message(),
                HasSubstr("chat.messages[0].role"));
  }
  for (int32_t id : {-1, 512}) {
    grpc::ClientContext context;
    v1::DetokenizeRequest request;
    request.add_ids(1);
    request.add_ids(id);
    v1::DetokenizeResponse text;
    const grpc::Status status = inference_->Detokenize(&context, request, &text);
    EXPECT_EQ(status.error_code(), grpc::StatusCode::INVALID_ARGUMENT);
    EXPECT_THAT(status.error_message(), HasSubstr("ids[1]"));
  }
}

TEST_F(GenerateTest, TooLargeMessagesAreRefused) {
  AddWorker();
  RouterOptions options;
  options.max_message_bytes = 4096;
  StartRouter(options);
  v1::GenerateRequest request;
  request.set_text(std::string(5000, 'a'));
  EXPECT_EQ(Generate(request).status.error_code(), grpc::StatusCode::RESOURCE_EXHAUSTED);
}

TEST_F(GenerateTest, AnswersLargerThanTheLimitAreRefused) {
  AddWorker();
  RouterOptions options;
  options.max_message_bytes = 4096;
  StartRouter(options);
  const auto detokenize = [this](int32_t id, int count, v1::DetokenizeResponse* text) {
    grpc::ClientContext context;
    v1::DetokenizeRequest request;
    for (int i = 0; i < count; ++i) request.add_ids(id);
    return inference_->Detokenize(&context, request, text);
  };
  v1::DetokenizeResponse text;
  EXPECT_TRUE(detokenize('a', 4000, &text).ok());
  EXPECT_EQ(text.text().size(), 4000U);
  // 17 bytes from two bytes of id, and three bytes of U+FFFD from one.
  for (const auto& [id, count] : {std::pair{kTinyEos, 1000}, std::pair{0xFF, 1500}}) {
    const grpc::Status status = detokenize(id, count, &text);
    EXPECT_EQ(status.error_code(), grpc::StatusCode::INVALID_ARGUMENT) << id;
    EXPECT_THAT(status.error_message(), HasSubstr("ids")) << id;
    EXPECT_THAT(status.error_message(), HasSubstr("at most 4096 bytes")) << id;
  }

  v1::TokenizeResponse tokens;
  v1::TokenizeRequest request;
  for (const int size : {500, 2000}) {
    grpc::ClientContext context;
    request.set_text(std::string(static_cast<size_t>(size), '\x01'));  // a token for each byte
    const grpc::Status status = inference_->Tokenize(&context, request, &tokens);
    if (size == 500) {
      EXPECT_TRUE(status.ok()) << status.error_message();
      continue;
    }
    EXPECT_EQ(status.error_code(), grpc::StatusCode::INVALID_ARGUMENT);
    EXPECT_THAT(status.error_message(), HasSubstr("text"));
    EXPECT_THAT(status.error_message(), HasSubstr("at most 4096 bytes"));
  }
}

TEST_F(GenerateTest, TellsTheModel) {
  AddWorker({.max_context_tokens = 4096});
  StartRouter();
  ASSERT_TRUE(WaitUntilServing());
  v1::GetModelInfoResponse info;
  grpc::ClientContext context;
  ASSERT_TRUE(inference_->GetModelInfo(&context, {}, &info).ok());
  EXPECT_EQ(info.model(), "tiny");
  EXPECT_EQ(info.vocab_size(), 512);
  EXPECT_EQ(info.layer_count(), 8);
  EXPECT_EQ(info.expert_count(), 32);
  EXPECT_EQ(info.max_context_tokens(), 4096);
  EXPECT_EQ(info.fingerprint(), std::string(64, 'a'));
  EXPECT_THAT(info.eos_token_ids(), ElementsAre(kTinyEos));
}

}  // namespace
}  // namespace m1
