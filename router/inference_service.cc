#include "router/inference_service.h"

#include <google/protobuf/io/coded_stream.h>

#include <algorithm>
#include <cmath>
#include <utility>

#include "absl/random/random.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"

#include "common/base/status_macros.h"
#include "common/rpc/grpc_status.h"
#include "router/grpc_chat.h"
#include "router/grpc_parse.h"
#include "router/grpc_request.h"

namespace m1 {
namespace {

// At 5 MB/s of text this takes a few milliseconds; larger messages leave gRPC's threads.
constexpr size_t kMaxInlineBytes = 16 << 10;

absl::Status PoolIsFull() {
  return WithRetryDelay(
      absl::ResourceExhaustedError("too many long prompts are waiting to be encoded"),
      absl::Seconds(1));
}

// Parses, answers.
template <typename Request, typename AnswerFunction>
absl::Status AnswerUnary(const grpc::ByteBuffer& bytes, const AnswerFunction& answer,
                         grpc::ByteBuffer* response) {
  Request request;
  M1_RETURN_IF_ERROR(ParseRequest(bytes, &request));
  M1_ASSIGN_OR_RETURN(const auto message, answer(request));
  M1_ASSIGN_OR_RETURN(*response, SerializeResponse(message));
  return absl::OkStatus();
}

// Bytes that one token takes in a TokenizeResponse: its id, and its bytes with tag and length.
int64_t AnswerBytes(int32_t id, absl::string_view bytes) {
  using google::protobuf::io::CodedOutputStream;
  return static_cast<int64_t>(CodedOutputStream::VarintSize32SignExtended(id) + 1 +
                              CodedOutputStream::VarintSize32(static_cast<uint32_t>(bytes.size())) +
                              bytes.size());
}

std::string RandomRequestId() {
  absl::BitGen random;
  return absl::StrFormat("m1-%016x%016x", absl::Uniform<uint64_t>(random),
                         absl::Uniform<uint64_t>(random));
}

RepetitionRule RuleOf(const RouterOptions& options) {
  return {.max_run = options.repetition_run_tokens,
          .logprob = std::log(options.repetition_probability)};
}

}  // namespace

InferenceService::InferenceService(InferenceServiceOptions options, Router* router)
    : options_(std::move(options)),
      vocabulary_(router->vocabulary()),
      dispatcher_(router->dispatcher()),
      pool_(router->pool()),
      repetition_(RuleOf(router->options())),
      call_context_{.dispatcher = router->dispatcher(),
                    .registry = router->registry(),
                    .pieces = router->vocabulary(),
                    .clock = router->clock(),
                    .slow_reader_timeout = options_.slow_reader_timeout,
                    .metrics = options_.metrics,
                    .security = router->security()} {}

grpc::ServerWriteReactor<grpc::ByteBuffer>* InferenceService::Generate(
    grpc::CallbackServerContext* context, const grpc::ByteBuffer* request) {
  const auto call = std::make_shared<GenerateCall>(call_context_, context);
  call->KeepUntilDone();
  // The copy shares the bytes; the original may be gone when the pool gets to it.
  const bool runs = RunBySize(*request, [this, call, bytes = *request] {
    absl::StatusOr<GenerationRequest> read = Read(bytes);
    if (read.ok()) {
      call->Begin(*std::move(read));
    } else {
      call->Refuse(read.status());
    }
  });
  if (!runs) call->Refuse(PoolIsFull());
  return call.get();
}

bool InferenceService::RunBySize(const grpc::ByteBuffer& request, std::function<void()> work) {
  if (request.Length() > kMaxInlineBytes) return pool_->TrySubmit(std::move(work));
  work();
  return true;
}

absl::StatusOr<GenerationRequest> InferenceService::Read(const grpc::ByteBuffer& bytes) const {
  v1::GenerateRequest request;
  M1_RETURN_IF_ERROR(ParseRequest(bytes, &request));
  Violations violations;
  CheckRanges(request, vocabulary_->config().vocab_size, &violations);
  if (request.has_chat()) CheckChat(request.chat(), &violations);
  M1_RETURN_IF_ERROR(violations.ToStatus());

  M1_ASSIGN_OR_RETURN(std::vector<int32_t> prompt_ids, EncodePrompt(request));
  const int64_t max_tokens = MaxContextTokens();
  const auto num_tokens = static_cast<int64_t>(prompt_ids.size());
  violations.Require(num_tokens >= 1 && num_tokens <= max_tokens, PromptField(request),
                     absl::StrCat(num_tokens, " tokens long"),
                     absl::StrCat("1..", max_tokens, " tokens"));
  M1_RETURN_IF_ERROR(violations.ToStatus());

  GenerationRequest read = ReadRequest(request, vocabulary_->eos_token_ids());
  read.prompt_ids = std::move(prompt_ids);
  if (request.thinking().has_budget_tokens()) {
    M1_ASSIGN_OR_RETURN(std::vector<int32_t> ids,
                        vocabulary_->EncodeText(ClosingText(request.thinking())));
    read.thinking = ThinkingLimit{.budget_tokens = request.thinking().budget_tokens(),
                                  .closing_ids = std::move(ids)};
  }
  read.repetition = repetition_;
  if (!request.has_request_id()) read.request_id = RandomRequestId();
  if (!request.sampling().has_seed()) {
    absl::BitGen random;
    read.sampling.seed = absl::Uniform<uint64_t>(random);
  }
  return read;
}

absl::StatusOr<std::vector<int32_t>> InferenceService::EncodePrompt(
    const v1::GenerateRequest& request) const {
  switch (request.prompt_case()) {
    case v1::GenerateRequest::kText:
      return vocabulary_->EncodeText(request.text());
    case v1::GenerateRequest::kChat:
      return vocabulary_->EncodeChat(ReadChat(request.chat()));
    default:
      return std::vector<int32_t>(request.token_ids().ids().begin(),
                                  request.token_ids().ids().end());
  }
}

template <typename Request>
grpc::ServerUnaryReactor* InferenceService::Unary(grpc::CallbackServerContext* context,
                                                  const grpc::ByteBuffer& request,
                                                  grpc::ByteBuffer* response) {
  grpc::ServerUnaryReactor* reactor = context->DefaultReactor();
  const bool runs = RunBySize(request, [this, reactor, bytes = request, response] {
    const auto answer = [this](const Request& parsed) { return Answer(parsed); };
    reactor->Finish(ToGrpcStatus(AnswerUnary<Request>(bytes, answer, response)));
  });
  if (!runs) reactor->Finish(ToGrpcStatus(PoolIsFull()));
  return reactor;
}

grpc::ServerUnaryReactor* InferenceService::Tokenize(grpc::CallbackServerContext* context,
                                                     const grpc::ByteBuffer* request,
                                                     grpc::ByteBuffer* response) {
  return Unary<v1::TokenizeRequest>(context, *request, response);
}

grpc::ServerUnaryReactor* InferenceService::Detokenize(grpc::CallbackServerContext* context,
                                                       const grpc::ByteBuffer* request,
                                                       grpc::ByteBuffer* response) {
  return Unary<v1::DetokenizeRequest>(context, *request, response);
}

grpc::ServerUnaryReactor* InferenceService::GetModelInfo(grpc::CallbackServerContext* context,
                                                         const grpc::ByteBuffer* request,
                                                         grpc::ByteBuffer* response) {
  return Unary<v1::GetModelInfoRequest>(context, *request, response);
}

absl::StatusOr<v1::TokenizeResponse> InferenceService::Answer(
    const v1::TokenizeRequest& request) const {
  Violations violations;
  if (request.input_case() == v1::TokenizeRequest::INPUT_NOT_SET) {
    violations.Add("input", "is absent, one of text and chat must be set");
  }
  if (request.has_chat()) CheckChat(request.chat(), &violations);
  M1_RETURN_IF_ERROR(violations.ToStatus());
  M1_ASSIGN_OR_RETURN(const std::vector<int32_t> ids,
                      request.has_chat() ? vocabulary_->EncodeChat(ReadChat(request.chat()))
                                         : vocabulary_->EncodeText(request.text()));
  int64_t num_bytes = 0;
  for (int32_t id : ids) num_bytes += AnswerBytes(id, vocabulary_->Bytes(id));
  violations.Require(num_bytes <= options_.max_answer_bytes, request.has_chat() ? "chat" : "text",
                     absl::StrCat(ids.size(), " tokens long, an answer of ", num_bytes, " bytes"),
                     absl::StrCat("at most ", options_.max_answer_bytes, " bytes of answer"));
  M1_RETURN_IF_ERROR(violations.ToStatus());
  v1::TokenizeResponse response;
  response.mutable_ids()->Add(ids.begin(), ids.end());
  for (int32_t id : ids) {
    const absl::string_view bytes = vocabulary_->Bytes(id);
    response.add_tokens(bytes.data(), bytes.size());
  }
  return response;
}

absl::StatusOr<v1::DetokenizeResponse> InferenceService::Answer(
    const v1::DetokenizeRequest& request) const {
  Violations violations;
  CheckIds(request.ids(), "ids", vocabulary_->config().vocab_size, &violations);
  M1_RETURN_IF_ERROR(violations.ToStatus());
  int64_t num_bytes = 0;
  for (int32_t id : request.ids()) {
    num_bytes += static_cast<int64_t>(vocabulary_->Bytes(id).size());
  }
  const auto check_size = [this, &violations](int64_t size) {
    violations.Require(size <= options_.max_answer_bytes, "ids",
                       absl::StrCat(size, " bytes of text"),
                       absl::StrCat("at most ", options_.max_answer_bytes, " bytes of text"));
    return violations.ToStatus();
  };
  M1_RETURN_IF_ERROR(check_size(num_bytes));
  v1::DetokenizeResponse response;
  response.set_text(vocabulary_->Decode({request.ids().begin(), request.ids().end()}));
  // What is no UTF-8 has grown: U+FFFD takes three bytes.
  M1_RETURN_IF_ERROR(check_size(static_cast<int64_t>(response.text().size())));
  return response;
}

absl::StatusOr<v1::GetModelInfoResponse> InferenceService::Answer(
    const v1::GetModelInfoRequest& /*request*/) const {
  const ModelConfig& config = vocabulary_->config();
  v1::GetModelInfoResponse response;
  response.set_model(options_.model_name);
  response.set_vocab_size(config.vocab_size);
  response.set_layer_count(config.num_layers);
  response.set_expert_count(config.num_experts);
  response.set_max_context_tokens(MaxContextTokens());
  response.set_hidden_size(config.hidden_size);
  const std::vector<int32_t>& eos = vocabulary_->eos_token_ids();
  response.mutable_eos_token_ids()->Add(eos.begin(), eos.end());
  response.set_server_version(options_.server_version);
  if (const std::optional<FleetIdentity> identity = dispatcher_->Snapshot().identity) {
    response.set_fingerprint(identity->fingerprint);
    response.set_activation_dtype(identity->activation_dtype);
    response.set_weight_format(identity->weight_format);
  }
  return response;
}

int64_t InferenceService::MaxContextTokens() const {
  const int64_t of_model = vocabulary_->config().max_context_tokens;
  return std::min(of_model, dispatcher_->Snapshot().max_sequence_tokens.value_or(of_model));
}

}  // namespace m1
