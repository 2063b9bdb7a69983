// Every range of the public contract: a table of malformed requests with the field that is blamed.
#include <gmock/gmock.h>
#include <google/protobuf/text_format.h>

#include <fstream>
#include <limits>
#include <sstream>

#include "google/rpc/error_details.pb.h"
#include "gtest/gtest.h"

#include "router/grpc_chat.h"
#include "router/grpc_parse.h"
#include "router/grpc_request.h"
#include "tests/support/status_matchers.h"

namespace m1 {
namespace {

using testing::ElementsAre;
using testing::HasSubstr;
using testing::IsEmpty;

constexpr int32_t kVocabSize = 512;
constexpr float kNan = std::numeric_limits<float>::quiet_NaN();
constexpr float kInfinity = std::numeric_limits<float>::infinity();

google::rpc::BadRequest DetailsOf(const absl::Status& status) {
  google::rpc::BadRequest details;
  const auto payload = status.GetPayload("type.googleapis.com/google.rpc.BadRequest");
  EXPECT_TRUE(payload && details.ParseFromString(std::string(*payload)));
  return details;
}

absl::Status Check(const v1::GenerateRequest& request) {
  Violations violations;
  CheckRanges(request, kVocabSize, &violations);
  if (request.has_chat()) CheckChat(request.chat(), &violations);
  return violations.ToStatus();
}

v1::GenerateRequest FromText(const std::string& text) {
  v1::GenerateRequest request;
  EXPECT_TRUE(google::protobuf::TextFormat::ParseFromString(text, &request)) << text;
  return request;
}

// One line of tests/router/malformed_requests.txt: the blamed field, a tab, the request as protobuf
// text.
TEST(RequestTest, MalformedRequestsNameTheirField) {
  std::ifstream file("tests/router/malformed_requests.txt");
  std::string line;
  int count = 0;
  while (std::getline(file, line)) {
    if (line.empty() || line[0] == '#') continue;
    const size_t tab = line.find('\t');
    ASSERT_NE(tab, std::string::npos) << line;
    const std::string field = line.substr(0, tab);
    SCOPED_TRACE(line.substr(0, 200));
    const absl::Status status = Check(FromText(line.substr(tab + 1)));
    ASSERT_EQ(status.code(), absl::StatusCode::kInvalidArgument);
    const google::rpc::BadRequest details = DetailsOf(status);
    ASSERT_EQ(details.field_violations_size(), 1);
    EXPECT_EQ(details.field_violations(0).field(), field);
    EXPECT_FALSE(details.field_violations(0).description().empty());
    EXPECT_THAT(std::string(status.message()), HasSubstr(field));
    ++count;
  }
  EXPECT_GE(count, 150);
}

TEST(RequestTest, NotANumberIsRefusedEverywhere) {
  const std::vector<std::pair<std::string, void (*)(v1::Sampling*, float)>> fields = {
      {"sampling.temperature", [](v1::Sampling* s, float v) { s->set_temperature(v); }},
      {"sampling.top_p", [](v1::Sampling* s, float v) { s->set_top_p(v); }},
      {"sampling.min_p", [](v1::Sampling* s, float v) { s->set_min_p(v); }},
      {"sampling.repetition_penalty",
       [](v1::Sampling* s, float v) { s->set_repetition_penalty(v); }},
      {"sampling.presence_penalty", [](v1::Sampling* s, float v) { s->set_presence_penalty(v); }},
      {"sampling.frequency_penalty", [](v1::Sampling* s, float v) { s->set_frequency_penalty(v); }},
      {"sampling.logit_bias[5]",
       [](v1::Sampling* s, float v) { (*s->mutable_logit_bias())[5] = v; }},
  };
  for (const auto& field : fields) {
    for (float value : {kNan, -kNan, kInfinity, -kInfinity}) {
      v1::GenerateRequest request = FromText("text: 'a'");
      field.second(request.mutable_sampling(), value);
      const absl::Status status = Check(request);
      ASSERT_FALSE(status.ok()) << field.first << " " << value;
      EXPECT_EQ(DetailsOf(status).field_violations(0).field(), field.first);
    }
  }
}

TEST(RequestTest, BordersOfTheRangesAreIn) {
  for (const char* text : {
           "text: 'a' sampling { temperature: 0 }",
           "text: 'a' sampling { temperature: 1e-4 }",
           "text: 'a' sampling { temperature: 100 top_p: 1 min_p: 1 top_k: 2147483647 }",
           "text: 'a' sampling { top_p: 1e-30 min_p: 0 top_k: 0 }",
           "text: 'a' sampling { repetition_penalty: 10 presence_penalty: -10 "
           "frequency_penalty: 10 sample_count: 64 }",
           "text: 'a' sampling { seed: 18446744073709551615 logit_bias { key: 511 value: -100 } }",
           "text: 'a' stopping { max_new_tokens: 0 min_new_tokens: 0 }",
           "text: 'a' stopping { max_new_tokens: 2147483647 min_new_tokens: 2147483647 }",
           "text: 'a' stopping { min_new_tokens: 40000 stop_token_ids: 0 stop_token_ids: 511 }",
           "text: 'a' output { candidate_count: 20 } priority: -100",
           "text: 'a' queue_timeout { nanos: 1 } priority: 100",
           "text: 'a' queue_timeout { seconds: 315576000000 }",
           "text: 'a' request_id: ' !~' session_id: 'x'",
           "token_ids { ids: 0 ids: 511 } generated_prompt_token_count: 1",
           "chat { messages { role: ROLE_USER } }",
           "chat { messages { role: ROLE_TOOL tool_name: 't' text: '' } }",
           "chat { messages { role: ROLE_ASSISTANT tool_calls { name: 'f' arguments_json: '{}' } } "
           "}",
       }) {
    EXPECT_OK(Check(FromText(text))) << text;
  }
}

TEST(RequestTest, CountsAtTheirLimitAreIn) {
  v1::GenerateRequest request = FromText("text: 'a'");
  for (int i = 0; i < 16; ++i) request.mutable_stopping()->add_stop_strings(std::string(1024, 'x'));
  for (int i = 0; i < 128; ++i) request.mutable_stopping()->add_stop_token_ids(i);
  request.mutable_thinking()->set_closing_text(std::string(4096, 'x'));
  request.set_request_id(std::string(128, 'x'));
  EXPECT_OK(Check(request));
}

TEST(RequestTest, CountsOverTheirLimitAreOut) {
  const auto blamed = [](const v1::GenerateRequest& request) {
    return DetailsOf(Check(request)).field_violations(0).field();
  };
  v1::GenerateRequest request = FromText("text: 'a'");
  for (int i = 0; i < 17; ++i) request.mutable_stopping()->add_stop_strings("x");
  EXPECT_EQ(blamed(request), "stopping.stop_strings");
  request = FromText("text: 'a'");
  request.mutable_stopping()->add_stop_strings(std::string(1025, 'x'));
  EXPECT_EQ(blamed(request), "stopping.stop_strings[0]");
  request = FromText("text: 'a'");
  for (int i = 0; i < 129; ++i) request.mutable_stopping()->add_stop_token_ids(i);
  EXPECT_EQ(blamed(request), "stopping.stop_token_ids");
  request = FromText("text: 'a'");
  for (int i = 0; i < 1025; ++i)
    (*request.mutable_sampling()->mutable_logit_bias())[i % 512 + i / 512 * 512] = 0;
  EXPECT_EQ(blamed(request), "sampling.logit_bias");
  request = FromText("text: 'a'");
  request.mutable_thinking()->set_closing_text(std::string(4097, 'x'));
  EXPECT_EQ(blamed(request), "thinking.closing_text");
  request.Clear();
  for (int i = 0; i < 4097; ++i) request.mutable_chat()->add_messages()->set_role(v1::ROLE_USER);
  EXPECT_EQ(blamed(request), "chat.messages");
  request = FromText("chat { messages { role: ROLE_USER } }");
  for (int i = 0; i < 257; ++i) {
    request.mutable_chat()->add_tools()->set_name("f");
    request.mutable_chat()->mutable_tools(i)->set_parameters_json("{}");
  }
  EXPECT_EQ(blamed(request), "chat.tools");
}

TEST(RequestTest, AllViolationsAreToldUpToALimit) {
  const absl::Status two = Check(FromText("text: 'a' sampling { top_p: 2 top_k: -1 }"));
  EXPECT_EQ(DetailsOf(two).field_violations_size(), 2);
  v1::GenerateRequest request;
  for (int i = 0; i < 100000; ++i) request.mutable_token_ids()->add_ids(-1);
  EXPECT_EQ(DetailsOf(Check(request)).field_violations_size(), static_cast<int>(kMaxViolations));
}

TEST(RequestTest, ClosingTextIsTheCallersOrTheDefault) {
  const auto text = [](const char* thinking) {
    return ClosingText(FromText(std::string("thinking { ") + thinking + " }").thinking());
  };
  EXPECT_EQ(text("budget_tokens: 5"), "\n</think>\n\n");
  EXPECT_EQ(text("budget_tokens: 5 closing_text: 'done'"), "done");
  EXPECT_EQ(text("budget_tokens: 5 closing_text: ''"), "");
  EXPECT_EQ(text("budget_tokens: 0"), "<think>\n</think>\n\n");
  EXPECT_EQ(text("budget_tokens: 0 closing_text: 'x'"), "<think>x");
}

TEST(RequestTest, ReadsEveryField) {
  const GenerationRequest read = ReadRequest(
      FromText(
          "text: 'a' request_id: 'r' sampling { temperature: 0.5 top_p: 0.25 top_k: 7 min_p: "
          "0.125 seed: 9 repetition_penalty: 1.5 presence_penalty: 2 frequency_penalty: -3 "
          "logit_bias { key: 4 value: -0.5 } sample_count: 12 } generated_prompt_token_count: 6 "
          "stopping { max_new_tokens: 11 min_new_tokens: 5 stop_token_ids: 30 stop_token_ids: "
          "20 stop_token_ids: 30 stop_strings: 'b' stop_strings: 'a' include_stop_text: true "
          "} output { candidate_count: 4 prompt_logprobs: true "
          "prompt_token_ids: true } queue_timeout { seconds: 2 nanos: 500000000 }"),
      {25});
  EXPECT_EQ(read.request_id, "r");
  EXPECT_EQ(read.sampling.temperature, 0.5F);
  EXPECT_EQ(read.sampling.top_p, 0.25F);
  EXPECT_EQ(read.sampling.top_k, 7);
  EXPECT_EQ(read.sampling.min_p, 0.125F);
  EXPECT_EQ(read.sampling.seed, 9U);
  EXPECT_EQ(read.sampling.repetition_penalty, 1.5F);
  EXPECT_EQ(read.sampling.presence_penalty, 2.0F);
  EXPECT_EQ(read.sampling.frequency_penalty, -3.0F);
  EXPECT_THAT(read.sampling.logit_bias, ElementsAre(std::pair<int32_t, float>(4, -0.5F)));
  EXPECT_EQ(read.sample_count, 12);
  EXPECT_EQ(read.generated_prompt_token_count, 6);
  EXPECT_EQ(read.max_new_tokens, 11);
  EXPECT_EQ(read.min_new_tokens, 5);
  EXPECT_THAT(read.stop_token_ids, ElementsAre(20, 25, 30));
  EXPECT_THAT(read.eos_token_ids, ElementsAre(25));
  EXPECT_THAT(read.stop_strings, ElementsAre("b", "a"));
  EXPECT_TRUE(read.include_stop_text);
  EXPECT_EQ(read.candidate_count, 4);
  EXPECT_TRUE(read.prompt_logprobs);
  EXPECT_TRUE(read.prompt_token_ids);
  EXPECT_FALSE(read.is_chat);
  EXPECT_EQ(read.queue_timeout, absl::Milliseconds(2500));
}

TEST(RequestTest, ReadsTheDefaults) {
  const GenerationRequest read = ReadRequest(
      FromText("chat { messages { role: ROLE_USER } } stopping { ignore_eos: true }"), {25});
  EXPECT_EQ(read.sampling.temperature, 1.0F);
  EXPECT_EQ(read.sampling.top_p, 0.95F);
  EXPECT_EQ(read.sampling.repetition_penalty, 1.0F);
  EXPECT_EQ(read.max_new_tokens, 40000);
  EXPECT_THAT(read.stop_token_ids, IsEmpty());
  EXPECT_TRUE(read.is_chat);
  EXPECT_FALSE(read.tools_enabled);
  EXPECT_EQ(read.queue_timeout, absl::InfiniteDuration());
}

grpc::ByteBuffer Bytes(const std::string& bytes) {
  grpc::Slice slice(bytes);
  return grpc::ByteBuffer(&slice, 1);
}

TEST(ParseTest, TextThatIsNoUtf8NamesItsField) {
  v1::GenerateRequest request = FromText(
      "chat { messages { role: ROLE_USER text: 'ok' } messages { role: ROLE_ASSISTANT tool_calls { "
      "name: 'AAAA' arguments_json: '{}' } } }");
  std::string wire = request.SerializeAsString();
  wire.replace(wire.find("AAAA"), 4,
               "A\xFF\xFE"
               "A");
  v1::GenerateRequest read;
  const absl::Status status = ParseRequest(Bytes(wire), &read);
  EXPECT_EQ(DetailsOf(status).field_violations(0).field(), "chat.messages[1].tool_calls[0].name");

  request = FromText("text: 'a' stopping { stop_strings: 'x' stop_strings: 'CCCC' }");
  wire = request.SerializeAsString();
  wire.replace(wire.find("CCCC"), 4, "a\xE2\x82z");
  EXPECT_EQ(DetailsOf(ParseRequest(Bytes(wire), &read)).field_violations(0).field(),
            "stopping.stop_strings[1]");

  request = FromText("request_id: 'i' text: 'BBBB' stopping { stop_strings: 'x' }");
  wire = request.SerializeAsString();
  wire.replace(wire.find("BBBB"), 4, "\xC0\x80\xC0\x80");
  EXPECT_EQ(DetailsOf(ParseRequest(Bytes(wire), &read)).field_violations(0).field(), "text");
}

TEST(ParseTest, BytesThatAreNoMessageAreInvalidArgument) {
  v1::GenerateRequest read;
  for (const std::string wire : {"\xFF", "\x12\x7F", "\x12\xFF\xFF\xFF\xFF\xFF\xFF\xFF\xFF\xFF\xFF",
                                 "\x0B", "\x1A\x02\x0A\x7F"}) {
    EXPECT_THAT(ParseRequest(Bytes(wire), &read),
                StatusIs(absl::StatusCode::kInvalidArgument, HasSubstr("m1.v1.GenerateRequest")));
  }
}

// Every cut and every flipped bit of a request is read or refused, never worse.
TEST(ParseTest, DamagedRequestsAreReadOrRefused) {
  const std::string wire =
      FromText(
          "chat { messages { role: ROLE_USER text: 'h\303\251llo' } tools { name: 'f' "
          "parameters_json: '{}' } } sampling { seed: 5 logit_bias { key: 1 value: 2 } } "
          "stopping { stop_token_ids: 1 stop_token_ids: 2 } queue_timeout { seconds: 1 }")
          .SerializeAsString();
  for (size_t i = 0; i < wire.size(); ++i) {
    v1::GenerateRequest read;
    (void)ParseRequest(Bytes(wire.substr(0, i)), &read);
    for (int bit = 0; bit < 8; ++bit) {
      std::string damaged = wire;
      damaged[i] = static_cast<char>(damaged[i] ^ (1 << bit));
      if (ParseRequest(Bytes(damaged), &read).ok()) (void)Check(read);
    }
  }
}

}  // namespace
}  // namespace m1
