#include "common/rpc/server_runner.h"

#include <grpcpp/generic/generic_stub.h>
#include <gtest/gtest.h>
#include <unistd.h>

#include "absl/strings/str_cat.h"

#include "common/rpc/channel.h"
#include "m1/v1/exchange.grpc.pb.h"
#include "tests/support/eventually.h"
#include "tests/support/status_matchers.h"

namespace m1 {
namespace {

using ::testing::AllOf;
using ::testing::HasSubstr;
using ::testing::Not;

class EchoHidden final : public v1::ExpertExchange::Service {
 public:
  grpc::Status Describe(grpc::ServerContext*, const v1::DescribeExpertsRequest*,
                        v1::DescribeExpertsResponse* response) override {
    response->set_hidden_size(48);
    return grpc::Status::OK;
  }
};

ServerOptions Quiet() {
  ServerOptions options;
  options.announce = false;
  return options;
}

int32_t CallDescribe(const std::string& target, grpc::Status* status) {
  auto stub = v1::ExpertExchange::NewStub(MakeChannel(target));
  grpc::ClientContext context;
  context.set_deadline(std::chrono::system_clock::now() + std::chrono::seconds(5));
  v1::DescribeExpertsResponse response;
  *status = stub->Describe(&context, {}, &response);
  return response.hidden_size();
}

grpc::Status CallRaw(const std::string& target, const std::string& method,
                     grpc::ByteBuffer* response, const std::string& message = "") {
  grpc::GenericStub stub(MakeChannel(target));
  grpc::ClientContext context;
  context.set_deadline(std::chrono::system_clock::now() + std::chrono::seconds(5));
  grpc::CompletionQueue queue;
  const grpc::Slice bytes(message);
  const grpc::ByteBuffer request(&bytes, 1);
  grpc::Status status;
  auto call = stub.PrepareUnaryCall(&context, method, request, &queue);
  call->StartCall();
  call->Finish(response, &status, &call);
  void* tag = nullptr;
  bool ok = false;
  queue.Next(&tag, &ok);
  return status;
}

// The question {service: "NAME"} is 0a, its length, NAME; the answer {status: N} is 08 0N.
int HealthStatus(const std::string& target, const std::string& service = "") {
  std::string question;
  if (!service.empty())
    question = "\n" + std::string(1, static_cast<char>(service.size())) + service;
  grpc::ByteBuffer response;
  const grpc::Status status = CallRaw(target, "/grpc.health.v1.Health/Check", &response, question);
  grpc::Slice slice;
  if (!status.ok() || !response.DumpToSingleSlice(&slice).ok() || slice.size() != 2) return -1;
  return slice.begin()[1];
}

constexpr int kServing = 1;
constexpr int kNotServing = 2;

TEST(ServerRunnerTest, ServesOnAFreePort) {
  EchoHidden service;
  ASSERT_OK_AND_ASSIGN(auto runner, ServerRunner::Start(Quiet(), {&service}));
  EXPECT_GT(runner->port(), 0);
  EXPECT_EQ(runner->target(), absl::StrCat("127.0.0.1:", runner->port()));
  grpc::Status status;
  EXPECT_EQ(CallDescribe(runner->target(), &status), 48);
  EXPECT_TRUE(status.ok()) << status.error_message();
}

TEST(ServerRunnerTest, ServesOnAUnixSocket) {
  EchoHidden service;
  ServerOptions options = Quiet();
  options.address = absl::StrCat("unix:/tmp/m1_server_runner_test.", getpid());
  ASSERT_OK_AND_ASSIGN(auto runner, ServerRunner::Start(options, {&service}));
  EXPECT_EQ(runner->target(), options.address);
  grpc::Status status;
  EXPECT_EQ(CallDescribe(runner->target(), &status), 48);
}

TEST(ServerRunnerTest, AnnouncesWhereItListens) {
  EchoHidden service;
  testing::internal::CaptureStdout();
  auto runner = ServerRunner::Start({}, {&service});
  const std::string printed = testing::internal::GetCapturedStdout();
  ASSERT_OK(runner);
  EXPECT_EQ(printed, absl::StrCat("listening 127.0.0.1:", (*runner)->port(), "\n"));
}

TEST(ServerRunnerTest, HealthFollowsSetServing) {
  EchoHidden service;
  ASSERT_OK_AND_ASSIGN(auto runner, ServerRunner::Start(Quiet(), {&service}));
  EXPECT_EQ(HealthStatus(runner->target()), kNotServing);
  runner->SetServing(true);
  EXPECT_EQ(HealthStatus(runner->target()), kServing);
  runner->SetServing(false);
  EXPECT_EQ(HealthStatus(runner->target()), kNotServing);
}

TEST(ServerRunnerTest, ReadinessAndLivenessDiffer) {
  FakeClock clock;
  Watchdog watchdog(absl::Minutes(5), &clock);
  Heartbeat* const heartbeat = watchdog.Add("step loop");
  EchoHidden service;
  ServerOptions options = Quiet();
  options.watchdog = &watchdog;
  ASSERT_OK_AND_ASSIGN(auto runner, ServerRunner::Start(options, {&service}));
  EXPECT_EQ(HealthStatus(runner->target(), "readiness"), kNotServing);
  EXPECT_EQ(HealthStatus(runner->target(), "liveness"), kServing);
  runner->SetServing(true);
  heartbeat->Beat();
  clock.Advance(absl::Minutes(6));
  EXPECT_TRUE(
      Eventually([&] { return HealthStatus(runner->target(), "liveness") == kNotServing; }));
  EXPECT_EQ(HealthStatus(runner->target(), "readiness"), kNotServing) << "it would answer nothing";
  EXPECT_EQ(HealthStatus(runner->target()), kNotServing);
  heartbeat->Beat();
  EXPECT_TRUE(Eventually([&] { return HealthStatus(runner->target(), "liveness") == kServing; }));
  EXPECT_EQ(HealthStatus(runner->target(), "readiness"), kServing);
}

TEST(ServerRunnerTest, CountsCallsByMethodAndCode) {
  MetricsRegistry registry;
  EchoHidden service;
  ServerOptions options = Quiet();
  options.metrics = &registry;
  ASSERT_OK_AND_ASSIGN(auto runner, ServerRunner::Start(options, {&service}));
  grpc::Status status;
  grpc::ByteBuffer response;
  for (int i = 0; i < 2; ++i) EXPECT_EQ(CallDescribe(runner->target(), &status), 48);
  EXPECT_EQ(HealthStatus(runner->target()), kNotServing);
  for (int i = 0; i < 100; ++i) {
    status = CallRaw(runner->target(), absl::StrCat("/m1.v1.Made/Up", i), &response);
    EXPECT_EQ(status.error_code(), grpc::StatusCode::UNIMPLEMENTED);
  }
  runner->Shutdown(absl::Seconds(5));  // a call is counted when the server has done with it
  runner.reset();
  EXPECT_THAT(
      registry.Text(),
      AllOf(HasSubstr("m1_rpc_total{code=\"OK\",method=\"m1.v1.ExpertExchange/Describe\"} 2\n"),
            HasSubstr("m1_rpc_total{code=\"UNIMPLEMENTED\",method=\"other\"} 100\n"),
            Not(HasSubstr("grpc."))));
}

TEST(ServerRunnerTest, RefusesAPortInUse) {
  EchoHidden service;
  ASSERT_OK_AND_ASSIGN(auto runner, ServerRunner::Start(Quiet(), {&service}));
  EchoHidden second_service;
  ServerOptions options = Quiet();
  options.port = runner->port();
  EXPECT_THAT(ServerRunner::Start(options, {&second_service}),
              StatusIs(absl::StatusCode::kInvalidArgument, HasSubstr("--port")));
}

TEST(ServerRunnerTest, PortIsFreeAgainAfterShutdown) {
  EchoHidden service;
  ServerOptions options = Quiet();
  for (int round = 0; round < 3; ++round) {
    ASSERT_OK_AND_ASSIGN(auto runner, ServerRunner::Start(options, {&service}));
    options.port = runner->port();
    grpc::Status status;
    EXPECT_EQ(CallDescribe(runner->target(), &status), 48);
    runner->Shutdown(absl::Seconds(1));
    EXPECT_NE(CallDescribe(runner->target(), &status), 48);
    EXPECT_FALSE(status.ok());
  }
}

}  // namespace
}  // namespace m1
