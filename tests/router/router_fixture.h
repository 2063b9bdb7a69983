// A router on the embedded model's vocabulary beside fake attention workers, and a client.
#pragma once

#include <grpcpp/channel.h>

#include <memory>
#include <string>
#include <vector>

#include "gtest/gtest.h"

#include "m1/v1/control.grpc.pb.h"
#include "m1/v1/inference.grpc.pb.h"
#include "router/control_service.h"
#include "router/grpc_router.h"
#include "router/inference_service.h"
#include "tests/router/fake_attention_worker.h"

namespace m1 {

inline constexpr char kTinyModel[] = "models/tiny";
inline constexpr int32_t kTinyEos = 509;

// Everything that one stream brought.
struct StreamResult {
  grpc::Status status;
  std::vector<v1::GenerateResponse> responses;

  std::string Text() const;
  std::vector<int32_t> Ids() const;  // of deltas
  std::vector<v1::Token> PromptTokens() const;
  int num_finishes() const;
  const v1::Finish& finish() const { return responses.back().finish(); }
  const v1::Prompt& prompt() const { return responses.front().prompt(); }
};

class RouterFixture : public testing::Test {
 protected:
  // The workers' addresses are filled in.
  void StartRouter(RouterOptions options = {});
  void AddWorker(FakeWorkerOptions options = {});
  // Starts a worker at the address of one that died.
  void ReviveWorker(int index, FakeWorkerOptions options = {});
  void TearDown() override;

  // Waits until `condition` holds, at most 10 s.
  static bool Eventually(const std::function<bool()>& condition);
  bool WaitUntilServing();
  bool IsServing();

  StreamResult Generate(const v1::GenerateRequest& request);
  StreamResult Generate(const v1::GenerateRequest& request, grpc::ClientContext* context);
  v1::GetLoadResponse GetLoad();
  static v1::GenerateRequest TokenRequest(std::vector<int32_t> ids, int max_new_tokens);

  std::vector<std::unique_ptr<FakeAttentionWorker>> workers_;
  std::unique_ptr<InferenceService> inference_service_;
  std::unique_ptr<ControlService> control_service_;
  std::unique_ptr<Router> router_;  // ends before the services
  std::shared_ptr<grpc::Channel> channel_;
  std::unique_ptr<v1::Inference::Stub> inference_;
  std::unique_ptr<v1::Control::Stub> control_;
};

}  // namespace m1
