// The public service Inference: decodes, checks, hands on.
//
// Messages arrive as raw bytes, so that a request that is no valid protocol buffer, or holds text
// that is no UTF-8, gets INVALID_ARGUMENT naming the field instead of gRPC's empty error.
#pragma once

#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "absl/status/statusor.h"

#include "m1/v1/inference.grpc.pb.h"
#include "router/dispatcher.h"
#include "router/grpc_generate_call.h"
#include "router/grpc_router.h"
#include "router/vocabulary.h"

namespace m1 {

struct InferenceServiceOptions {
  std::string model_name;
  std::string server_version;
  absl::Duration slow_reader_timeout = absl::Seconds(30);
  // Of Tokenize and Detokenize, whose answers may be far larger than what they are asked.
  int64_t max_answer_bytes = 64 << 20;
  RouterMetrics* metrics = nullptr;  // null: nothing is counted
};

using RawInferenceService = v1::Inference::WithRawCallbackMethod_Generate<
    v1::Inference::WithRawCallbackMethod_Tokenize<v1::Inference::WithRawCallbackMethod_Detokenize<
        v1::Inference::WithRawCallbackMethod_GetModelInfo<v1::Inference::Service>>>>;

// Thread-safe. It uses `router` only while a call is open, so it outlives the
// router's server.
class InferenceService final : public RawInferenceService {
 public:
  InferenceService(InferenceServiceOptions options, Router* router);

  grpc::ServerWriteReactor<grpc::ByteBuffer>* Generate(grpc::CallbackServerContext* context,
                                                       const grpc::ByteBuffer* request) override;
  grpc::ServerUnaryReactor* Tokenize(grpc::CallbackServerContext* context,
                                     const grpc::ByteBuffer* request,
                                     grpc::ByteBuffer* response) override;
  grpc::ServerUnaryReactor* Detokenize(grpc::CallbackServerContext* context,
                                       const grpc::ByteBuffer* request,
                                       grpc::ByteBuffer* response) override;
  grpc::ServerUnaryReactor* GetModelInfo(grpc::CallbackServerContext* context,
                                         const grpc::ByteBuffer* request,
                                         grpc::ByteBuffer* response) override;

 private:
  // Runs `work`, for a message of this size, here or on the pool; false when the pool is full.
  bool RunBySize(const grpc::ByteBuffer& request, std::function<void()> work);
  template <typename Request>
  grpc::ServerUnaryReactor* Unary(grpc::CallbackServerContext* context,
                                  const grpc::ByteBuffer& request, grpc::ByteBuffer* response);
  absl::StatusOr<GenerationRequest> Read(const grpc::ByteBuffer& bytes) const;
  absl::StatusOr<std::vector<int32_t>> EncodePrompt(const v1::GenerateRequest& request) const;
  absl::StatusOr<v1::TokenizeResponse> Answer(const v1::TokenizeRequest& request) const;
  absl::StatusOr<v1::DetokenizeResponse> Answer(const v1::DetokenizeRequest& request) const;
  absl::StatusOr<v1::GetModelInfoResponse> Answer(const v1::GetModelInfoRequest& request) const;
  int64_t MaxContextTokens() const;

  const InferenceServiceOptions options_;
  const Vocabulary* const vocabulary_;
  Dispatcher* const dispatcher_;
  WorkPool* const pool_;
  const RepetitionRule repetition_;
  GenerateCallContext call_context_;
};

}  // namespace m1
