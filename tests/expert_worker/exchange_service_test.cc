#include "expert_worker/exchange_service.h"

#include <grpcpp/generic/generic_stub.h>
#include <gtest/gtest.h>

#include <chrono>
#include <cstring>

#include "common/base/status_macros.h"
#include "common/exchange/frame.h"
#include "common/rpc/channel.h"
#include "common/rpc/exchange_message.h"
#include "tests/expert_worker/local_expert_worker.h"
#include "tests/support/status_matchers.h"

namespace m1 {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;

constexpr ExpertModelShape kShape = {
    .num_layers = 2, .num_experts = 4, .hidden_size = 16, .intermediate_size = 8};
constexpr int32_t kMaxRows = 10;

grpc::ByteBuffer BytesMessage(const std::string& bytes) {
  const grpc::Slice slice(bytes);
  return grpc::ByteBuffer(&slice, 1);
}

// A client that sends any bytes, one step at a time.
class RawClient {
 public:
  explicit RawClient(const std::string& address) : stub_(MakeChannel(address)) {
    context_.set_deadline(std::chrono::system_clock::now() + std::chrono::seconds(20));
    stream_ = stub_.PrepareCall(&context_, "/m1.v1.ExpertExchange/Exchange", &queue_);
    stream_->StartCall(this);
    M1_CHECK(Next());
  }
  ~RawClient() {
    context_.TryCancel();
    queue_.Shutdown();
    void* tag = nullptr;
    bool ok = false;
    while (queue_.Next(&tag, &ok)) {
    }
  }

  bool Write(const grpc::ByteBuffer& message) {
    stream_->Write(message, this);
    return Next();
  }
  // The next answer; false when the stream ended.
  bool Read(grpc::ByteBuffer* message) {
    stream_->Read(message, this);
    return Next();
  }
  void HalfClose() {
    stream_->WritesDone(this);
    Next();
  }
  grpc::Status Finish() {
    grpc::Status status;
    stream_->Finish(&status, this);
    Next();
    return status;
  }
  void Cancel() { context_.TryCancel(); }

  // Sends `message` and returns the error that answers it; OK when a combine frame does.
  absl::Status Ask(const grpc::ByteBuffer& message, FrameHeader* header) {
    grpc::ByteBuffer answer;
    if (!Write(message) || !Read(&answer)) return absl::AbortedError("the stream ended");
    M1_ASSIGN_OR_RETURN(IncomingFrame frame, OpenFrameMessage(answer));
    M1_RETURN_IF_ERROR(ReadFrameHeader(&frame.bytes, header));
    return header->kind == FrameKind::kError ? ReadErrorBody(&frame.bytes, *header)
                                             : absl::OkStatus();
  }

 private:
  bool Next() {
    void* tag = nullptr;
    bool ok = false;
    return queue_.Next(&tag, &ok) && ok;
  }

  grpc::ClientContext context_;
  grpc::CompletionQueue queue_;
  grpc::GenericStub stub_;
  std::unique_ptr<grpc::GenericClientAsyncReaderWriter> stream_;
};

// A dispatch of three rows, as bytes to spoil.
struct Sample {
  std::string Encode() const {
    Tensor rows(dtype, {num_rows, hidden});
    std::vector<int32_t> row_indices(static_cast<size_t>(num_rows));
    for (int32_t i = 0; i < num_rows; ++i) row_indices[static_cast<size_t>(i)] = i;
    const DispatchSlice slice = {rows.view(), row_indices, pairs};
    const FrameHeader header = DispatchHeader(5, layer, slice);
    std::string frame(static_cast<size_t>(header.frame_bytes()), '\0');
    WriteDispatch(header, slice, reinterpret_cast<std::byte*>(frame.data()));
    return frame;
  }

  DType dtype = DType::kF32;
  int32_t layer = 1;
  int32_t num_rows = 3;
  int32_t hidden = kShape.hidden_size;
  std::vector<RowExpert> pairs = {{0, 1}, {2, 1}, {2, 2}};
};

std::string With32(std::string frame, size_t offset, int32_t value) {
  std::memcpy(frame.data() + offset, &value, sizeof(value));
  return frame;
}

class ExchangeServiceTest : public testing::Test {
 protected:
  ExchangeServiceTest() : weights_(kShape, DType::kF32), worker_(weights_, WorkerOptions()) {}

  static LocalExpertWorker::Options WorkerOptions() {
    LocalExpertWorker::Options options;
    options.experts = {1, 2};
    options.max_rows = kMaxRows;
    return options;
  }

  RandomExperts weights_;
  LocalExpertWorker worker_;
};

TEST_F(ExchangeServiceTest, DescribesItself) {
  auto stub = v1::ExpertExchange::NewStub(MakeChannel(worker_.address()));
  grpc::ClientContext context;
  v1::DescribeExpertsResponse response;
  ASSERT_TRUE(stub->Describe(&context, {}, &response).ok());
  EXPECT_THAT(response.experts(), ElementsAre(1, 2));
  EXPECT_EQ(response.layer_count(), 2);
  EXPECT_EQ(response.hidden_size(), 16);
  EXPECT_EQ(response.expert_count(), 4);
  EXPECT_EQ(response.max_rows(), kMaxRows);
  EXPECT_EQ(response.identity().activation_dtype(), "fp32");
  EXPECT_EQ(response.identity().numerics_revision(), kNumericsRevision);
}

TEST_F(ExchangeServiceTest, MalformedFramesGetErrorFramesAndTheStreamGoesOn) {
  const std::string good = Sample().Encode();
  Sample too_long;
  too_long.num_rows = kMaxRows + 1;
  Sample narrow;
  narrow.hidden = 15;
  Sample half;
  half.dtype = DType::kBf16;
  Sample not_hosted;
  not_hosted.pairs[1].expert = 3;
  Sample no_such_layer;
  no_such_layer.layer = 2;
  Sample many_pairs;
  many_pairs.pairs.assign(16 * 2048 + 1, {0, 1});
  struct Case {
    const char* name;
    grpc::ByteBuffer message;
    const char* error;
    uint64_t id;
  };
  const std::string unwrapped = good;
  const std::vector<Case> cases = {
      {"empty message", BytesMessage(""), "field 1", 0},
      {"tag only", BytesMessage("\x0a"), "field 1", 0},
      {"other field", BytesMessage("\x12\x01x"), "field 1", 0},
      {"endless varint", BytesMessage("\x0a" + std::string(20, '\xff')), "field 1", 0},
      {"length too long", BytesMessage("\x0a\x10xyz"), "frame of 16 bytes", 0},
      {"length too short", BytesMessage("\x0a\x02xyz"), "frame of 2 bytes", 0},
      {"huge length", BytesMessage("\x0a\xff\xff\xff\xff\xff\xff\xff\xff\x7fx"), "frame of", 0},
      {"no wrapping", BytesMessage(unwrapped), "field 1", 0},
      {"empty frame", BytesMessage(std::string("\x0a\x00", 2)), "0 bytes", 0},
      {"short frame", MakeFrameMessage(good.substr(0, 63)), "63 bytes", 0},
      {"cut frame", MakeFrameMessage(good.substr(0, good.size() - 1)), "its header says", 5},
      {"long frame", MakeFrameMessage(good + "x"), "its header says", 5},
      {"magic", MakeFrameMessage("X" + good.substr(1)), "magic", 5},
      {"version", MakeFrameMessage(With32(good, 4, 0x00010009)), "version", 5},
      {"negative rows", MakeFrameMessage(With32(good, 20, -3)), "num_rows", 5},
      {"huge rows", MakeFrameMessage(With32(good, 20, INT32_MAX)), "num_rows", 5},
      {"huge hidden", MakeFrameMessage(With32(good, 24, INT32_MAX)), "hidden", 5},
      {"negative pairs", MakeFrameMessage(With32(good, 28, -1)), "num_pairs", 5},
      {"row out of range", MakeFrameMessage(With32(good, 64 + 3 * 64, 3)), "pair's row 3", 5},
      {"negative expert", MakeFrameMessage(With32(good, 64 + 3 * 64 + 4, -1)), "pair's expert", 5},
      {"combine", MakeFrameMessage(With32(With32(good, 20, 0), 4, 0x00020001)), "its header", 5},
      {"error", MakeFrameMessage(EncodeErrorFrame(5, absl::InternalError("x"))), "not a dispatch",
       5},
      {"too many rows", MakeFrameMessage(too_long.Encode()), "11 rows", 5},
      {"too many pairs", MakeFrameMessage(many_pairs.Encode()), "32769 pairs", 5},
      {"hidden size", MakeFrameMessage(narrow.Encode()), "15 elements", 5},
      {"dtype", MakeFrameMessage(half.Encode()), "rows are bf16", 5},
      {"not hosted", MakeFrameMessage(not_hosted.Encode()), "expert 3 is not hosted", 5},
      {"layer", MakeFrameMessage(no_such_layer.Encode()), "layer 2", 5},
  };
  RawClient client(worker_.address());
  for (const Case& test_case : cases) {
    FrameHeader header;
    EXPECT_THAT(client.Ask(test_case.message, &header),
                StatusIs(absl::StatusCode::kInvalidArgument, HasSubstr(test_case.error)))
        << test_case.name;
    EXPECT_EQ(header.id, test_case.id) << test_case.name;
  }
  FrameHeader header;
  EXPECT_OK(client.Ask(MakeFrameMessage(good), &header));
  EXPECT_EQ(header.num_pairs, 3);
}

TEST_F(ExchangeServiceTest, RowsInASlotWithoutADeviceLinkEndTheStream) {
  RawClient client(worker_.address());
  std::string frame = With32(Sample().Encode(), 40, 1);
  frame.erase(64, size_t{3} * kShape.hidden_size * 4);
  ASSERT_TRUE(client.Write(MakeFrameMessage(Sample().Encode())));
  ASSERT_TRUE(client.Write(MakeFrameMessage(frame)));
  grpc::ByteBuffer answer;
  EXPECT_TRUE(client.Read(&answer));  // to the first
  EXPECT_FALSE(client.Read(&answer));
  const grpc::Status status = client.Finish();
  EXPECT_EQ(status.error_code(), grpc::StatusCode::INVALID_ARGUMENT);
  EXPECT_THAT(status.error_message(), HasSubstr("without a device link"));
}

TEST_F(ExchangeServiceTest, HalfClosedStreamGetsItsAnswersThenOk) {
  RawClient client(worker_.address());
  for (int i = 0; i < 3; ++i) ASSERT_TRUE(client.Write(MakeFrameMessage(Sample().Encode())));
  client.HalfClose();
  grpc::ByteBuffer answer;
  for (int i = 0; i < 3; ++i) EXPECT_TRUE(client.Read(&answer));
  EXPECT_FALSE(client.Read(&answer));
  EXPECT_TRUE(client.Finish().ok());
}

TEST_F(ExchangeServiceTest, DrainEndsStreamsWithUnavailable) {
  RawClient client(worker_.address());
  FrameHeader header;
  ASSERT_OK(client.Ask(MakeFrameMessage(Sample().Encode()), &header));
  worker_.Drain();
  grpc::ByteBuffer answer;
  EXPECT_FALSE(client.Read(&answer));
  EXPECT_EQ(client.Finish().error_code(), grpc::StatusCode::UNAVAILABLE);
}

TEST_F(ExchangeServiceTest, ClientsThatVanishLeaveTheOthersAlone) {
  RawClient steady(worker_.address());
  for (int round = 0; round < 20; ++round) {
    RawClient vanishing(worker_.address());
    ASSERT_TRUE(vanishing.Write(MakeFrameMessage(Sample().Encode())));
    if (round % 2 == 0) vanishing.Cancel();
    FrameHeader header;
    ASSERT_OK(steady.Ask(MakeFrameMessage(Sample().Encode()), &header));
  }
}

TEST_F(ExchangeServiceTest, ClientThatReadsLateGetsEveryAnswer) {
  // More than the 16 dispatches that may be unanswered: reading pauses, and goes on.
  constexpr int kNumFrames = 200;
  RawClient client(worker_.address());
  const grpc::ByteBuffer message = MakeFrameMessage(Sample().Encode());
  for (int i = 0; i < kNumFrames; ++i) ASSERT_TRUE(client.Write(message));
  grpc::ByteBuffer answer;
  for (int i = 0; i < kNumFrames; ++i) ASSERT_TRUE(client.Read(&answer));
  FrameHeader header;
  EXPECT_OK(client.Ask(message, &header));
}

}  // namespace
}  // namespace m1
