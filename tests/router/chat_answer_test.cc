// Thoughts and tool calls through a whole router: a fake worker says what it is told, a byte a
// token.
#include <gmock/gmock.h>

#include <atomic>
#include <thread>

#include "absl/time/clock.h"

#include "tests/router/router_fixture.h"

namespace m1 {
namespace {

using testing::ElementsAre;
using testing::IsEmpty;

constexpr char kCalls[] =
    "Let me see.\n<tool_calls>\n{\"name\": \"f\", \"arguments\": {\"x\": 1}}\n{\"name\": \"g\"}\n"
    "</tool_calls>";

class ChatAnswerTest : public RouterFixture {
 protected:
  // The worker says `text` and then EOS.
  void StartWith(const std::string& text) {
    AddWorker({.script = [text](const v1::Start&) {
      std::vector<int32_t> ids(text.begin(), text.end());
      ids.push_back(kTinyEos);
      return ids;
    }});
    StartRouter();
    ASSERT_TRUE(WaitUntilServing());
  }

  static v1::GenerateRequest ChatRequest(bool with_tools) {
    v1::GenerateRequest request;
    v1::ChatMessage* message = request.mutable_chat()->add_messages();
    message->set_role(v1::ROLE_USER);
    message->set_text("Do it.");
    for (const char* name : {"f", "g"}) {
      if (!with_tools) break;
      v1::Tool* tool = request.mutable_chat()->add_tools();
      tool->set_name(name);
      tool->set_parameters_json("{}");
    }
    return request;
  }

  // Text and calls in order, each call with the number of tokens that came before its delta's end.
  void Ask(const v1::GenerateRequest& request) {
    result_ = Generate(request);
    ASSERT_TRUE(result_.status.ok()) << result_.status.error_message();
    int num_tokens = 0;
    for (const v1::GenerateResponse& response : result_.responses) {
      const v1::Delta& delta = response.delta();
      num_tokens += delta.tokens_size();
      if (delta.channel() == v1::CHANNEL_REASONING) reasoning_ += delta.text();
      if (delta.channel() == v1::CHANNEL_CONTENT) content_ += delta.text();
      if (!delta.has_tool_call()) continue;
      calls_.push_back(delta.tool_call().name() + " " + delta.tool_call().arguments_json());
      tokens_at_call_.push_back(num_tokens);
    }
  }

  StreamResult result_;
  std::string reasoning_;
  std::string content_;
  std::vector<std::string> calls_;
  std::vector<int> tokens_at_call_;
};

TEST_F(ChatAnswerTest, ACallIsStreamedWhenItsLineIsComplete) {
  StartWith(kCalls);
  Ask(ChatRequest(/*with_tools=*/true));
  EXPECT_THAT(calls_, ElementsAre("f {\"x\": 1}", "g {}"));
  const std::string text = kCalls;
  EXPECT_THAT(tokens_at_call_,
              ElementsAre(text.find("\n{\"name\": \"g") + 1, text.find("\n</") + 1));
  EXPECT_EQ(content_, "Let me see.");
  EXPECT_EQ(result_.finish().reason(), v1::FINISH_REASON_TOOL_CALLS);
  EXPECT_EQ(result_.finish().matched_case(), v1::Finish::MATCHED_NOT_SET);
}

TEST_F(ChatAnswerTest, WithoutToolsACallIsText) {
  StartWith(kCalls);
  Ask(ChatRequest(/*with_tools=*/false));
  EXPECT_THAT(calls_, IsEmpty());
  EXPECT_EQ(content_, kCalls);
  EXPECT_EQ(result_.finish().reason(), v1::FINISH_REASON_STOP);
  EXPECT_EQ(result_.finish().stop_token_id(), kTinyEos);
}

TEST_F(ChatAnswerTest, MalformedCallsStayText) {
  const std::string lines = "{\"name\": 1}\n{\"name\": \"f\", \"arguments\": [1]}\nf(1)";
  StartWith("<tool_calls>\n" + lines + "\n</tool_calls>");
  Ask(ChatRequest(/*with_tools=*/true));
  EXPECT_THAT(calls_, IsEmpty());
  EXPECT_EQ(content_, lines);
  EXPECT_EQ(result_.finish().reason(), v1::FINISH_REASON_STOP);
}

TEST_F(ChatAnswerTest, ACallThatIsCutStaysTextAndTheOneBeforeIsACall) {
  StartWith(kCalls);
  v1::GenerateRequest request = ChatRequest(/*with_tools=*/true);
  const size_t cut = std::string(kCalls).find("\"g\"");
  request.mutable_stopping()->set_max_new_tokens(static_cast<int32_t>(cut));
  Ask(request);
  EXPECT_THAT(calls_, ElementsAre("f {\"x\": 1}"));
  EXPECT_EQ(content_, "Let me see.\n{\"name\":");
  EXPECT_EQ(result_.finish().reason(), v1::FINISH_REASON_LENGTH);
}

TEST_F(ChatAnswerTest, AStopTokenAfterACallIsAStop) {
  StartWith(std::string(kCalls) + "!");
  v1::GenerateRequest request = ChatRequest(/*with_tools=*/true);
  request.mutable_stopping()->add_stop_token_ids('!');
  Ask(request);
  EXPECT_EQ(calls_.size(), 2U);
  EXPECT_EQ(result_.finish().reason(), v1::FINISH_REASON_STOP);
  EXPECT_EQ(result_.finish().stop_token_id(), '!');
}

TEST_F(ChatAnswerTest, ACallInsideAThoughtIsThought) {
  StartWith("<think>\n" + std::string(kCalls) + "\n</think>\n\nNo.");
  Ask(ChatRequest(/*with_tools=*/true));
  EXPECT_THAT(calls_, IsEmpty());
  EXPECT_EQ(reasoning_, kCalls);
  EXPECT_EQ(content_, "No.");
  EXPECT_EQ(result_.finish().reason(), v1::FINISH_REASON_STOP);
}

TEST_F(ChatAnswerTest, AThoughtOverBudgetIsClosedAndACallMayFollow) {
  // What the worker would say at the same place if it had not been fed 4 tokens.
  StartWith("<think>abc----<tool_calls>\n{\"name\": \"f\"}\n</tool_calls>");
  v1::GenerateRequest request = ChatRequest(/*with_tools=*/true);
  request.mutable_thinking()->set_budget_tokens(3);
  Ask(request);
  EXPECT_EQ(reasoning_, "abc");
  EXPECT_EQ(content_, "");
  EXPECT_THAT(calls_, ElementsAre("f {}"));
  EXPECT_EQ(workers_[0]->num_takes(), 1);
  EXPECT_EQ(result_.finish().reason(), v1::FINISH_REASON_TOOL_CALLS);
  EXPECT_EQ(result_.finish().usage().reasoning_token_count(), 4);  // and the fed newline
  EXPECT_EQ(result_.Ids().size(), std::string("<think>abc----<tool_calls>\n{\"name\": \"f\"}\n"
                                              "</tool_calls>")
                                          .size() +
                                      1);
}

TEST_F(ChatAnswerTest, AThoughtInsideABudgetIsNotFed) {
  StartWith("<think>abc</think>done");
  v1::GenerateRequest request = ChatRequest(/*with_tools=*/false);
  request.mutable_thinking()->set_budget_tokens(12);
  Ask(request);
  EXPECT_EQ(reasoning_, "abc");
  EXPECT_EQ(content_, "done");
  EXPECT_EQ(workers_[0]->num_takes(), 0);
}

// The worker is dropped of all it has again and again, inside the closing text, too.
TEST_F(ChatAnswerTest, ABudgetHoldsOverPreemption) {
  const std::string text = "<think>" + std::string(60, 't') + "</think>" + std::string(120, 'x');
  StartWith(text);
  v1::GenerateRequest request = ChatRequest(/*with_tools=*/false);
  request.mutable_thinking()->set_budget_tokens(20);
  request.mutable_thinking()->set_closing_text(std::string(100, 'c') + "</think>");
  Ask(request);
  const std::vector<int32_t> expected = result_.Ids();
  const std::string thought = std::string(20, 't') + std::string(100, 'c');
  EXPECT_EQ(reasoning_, thought);
  for (int round = 0; round < 3; ++round) {
    std::atomic<bool> is_done = false;
    std::thread client([&] {
      EXPECT_EQ(Generate(request).Ids(), expected);
      is_done = true;
    });
    while (!is_done) {
      absl::SleepFor(absl::Milliseconds(10 + round));
      workers_[0]->PreemptAll();
    }
    client.join();
  }
  bool was_fed_at_start = false;
  for (const v1::Start& start : workers_[0]->starts()) {
    was_fed_at_start = was_fed_at_start || start.fed_token_ids_size() > 0;
  }
  EXPECT_TRUE(was_fed_at_start);
}

}  // namespace
}  // namespace m1
