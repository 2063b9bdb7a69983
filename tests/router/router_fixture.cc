#include "tests/router/router_fixture.h"

#include <grpcpp/create_channel.h>
#include <grpcpp/generic/generic_stub.h>

#include "absl/time/clock.h"

#include "common/rpc/channel.h"

namespace m1 {

std::string StreamResult::Text() const {
  std::string text;
  for (const v1::GenerateResponse& response : responses) text += response.delta().text();
  return text;
}

std::vector<int32_t> StreamResult::Ids() const {
  std::vector<int32_t> ids;
  for (const v1::GenerateResponse& response : responses) {
    for (const v1::Token& token : response.delta().tokens()) ids.push_back(token.id());
  }
  return ids;
}

std::vector<v1::Token> StreamResult::PromptTokens() const {
  std::vector<v1::Token> tokens;
  for (const v1::GenerateResponse& response : responses) {
    if (response.prompt().tokens_size() == 0) continue;
    EXPECT_EQ(response.prompt().first_index(), static_cast<int32_t>(tokens.size()));
    tokens.insert(tokens.end(), response.prompt().tokens().begin(),
                  response.prompt().tokens().end());
  }
  return tokens;
}

int StreamResult::num_finishes() const {
  int count = 0;
  for (const v1::GenerateResponse& response : responses) count += response.has_finish() ? 1 : 0;
  return count;
}

void RouterFixture::AddWorker(FakeWorkerOptions options) {
  workers_.push_back(std::make_unique<FakeAttentionWorker>(std::move(options)));
}

void RouterFixture::ReviveWorker(int index, FakeWorkerOptions options) {
  std::unique_ptr<FakeAttentionWorker>& worker = workers_[static_cast<size_t>(index)];
  options.port = worker->port();
  worker.reset();
  worker = std::make_unique<FakeAttentionWorker>(std::move(options));
}

void RouterFixture::StartRouter(RouterOptions options) {
  options.model_directory = kTinyModel;
  for (const auto& worker : workers_) options.attention_workers.push_back(worker->address());
  auto vocabulary = Vocabulary::Load(kTinyModel);
  ASSERT_TRUE(vocabulary.ok()) << vocabulary.status().ToString();
  router_ = std::make_unique<Router>(options, *std::move(vocabulary));
  inference_service_ = std::make_unique<InferenceService>(
      InferenceServiceOptions{.model_name = "tiny",
                              .server_version = "test",
                              .slow_reader_timeout = options.slow_reader_timeout,
                              .max_answer_bytes = options.max_message_bytes},
      router_.get());
  control_service_ = std::make_unique<ControlService>(router_.get());
  const absl::Status served = router_->Serve({inference_service_.get(), control_service_.get()});
  ASSERT_TRUE(served.ok()) << served.ToString();
  channel_ = MakeChannel(router_->server().target());
  inference_ = v1::Inference::NewStub(channel_);
  control_ = v1::Control::NewStub(channel_);
}

void RouterFixture::TearDown() { router_.reset(); }

bool RouterFixture::Eventually(const std::function<bool()>& condition) {
  const absl::Time deadline = absl::Now() + absl::Minutes(1);
  while (!condition()) {
    if (absl::Now() > deadline) return false;
    absl::SleepFor(absl::Milliseconds(5));
  }
  return true;
}

// grpc.health.v1 has no packaged stub: the request is empty, the answer is one enum field.
bool RouterFixture::IsServing() {
  grpc::GenericStub stub(channel_);
  grpc::ClientContext context;
  grpc::CompletionQueue queue;
  const grpc::Slice empty("");
  const grpc::ByteBuffer request(&empty, 1);
  grpc::ByteBuffer response;
  grpc::Status status;
  const auto call =
      stub.PrepareUnaryCall(&context, "/grpc.health.v1.Health/Check", request, &queue);
  call->StartCall();
  call->Finish(&response, &status, nullptr);
  void* tag = nullptr;
  bool ok = false;
  queue.Next(&tag, &ok);
  if (!status.ok()) return false;
  std::vector<grpc::Slice> slices;
  EXPECT_TRUE(response.Dump(&slices).ok());
  std::string bytes;
  for (const grpc::Slice& slice : slices) {
    bytes.append(reinterpret_cast<const char*>(slice.begin()), slice.size());
  }
  return bytes == std::string("\x08\x01", 2);
}

bool RouterFixture::WaitUntilServing() {
  return Eventually([this] { return IsServing(); });
}

StreamResult RouterFixture::Generate(const v1::GenerateRequest& request) {
  grpc::ClientContext context;
  context.set_deadline(std::chrono::system_clock::now() + std::chrono::seconds(30));
  return Generate(request, &context);
}

StreamResult RouterFixture::Generate(const v1::GenerateRequest& request,
                                     grpc::ClientContext* context) {
  StreamResult result;
  const auto stream = inference_->Generate(context, request);
  v1::GenerateResponse response;
  while (stream->Read(&response)) result.responses.push_back(response);
  result.status = stream->Finish();
  return result;
}

v1::GetLoadResponse RouterFixture::GetLoad() {
  grpc::ClientContext context;
  v1::GetLoadResponse response;
  EXPECT_TRUE(control_->GetLoad(&context, {}, &response).ok());
  return response;
}

v1::GenerateRequest RouterFixture::TokenRequest(std::vector<int32_t> ids, int max_new_tokens) {
  v1::GenerateRequest request;
  request.mutable_token_ids()->mutable_ids()->Add(ids.begin(), ids.end());
  request.mutable_stopping()->set_max_new_tokens(max_new_tokens);
  return request;
}

}  // namespace m1
