#include "common/exchange/frame.h"

#include <gtest/gtest.h>

#include <cstring>
#include <functional>
#include <string>
#include <vector>

#include "common/tensor/tensor.h"
#include "tests/support/status_matchers.h"

namespace m1 {
namespace {

using ::testing::HasSubstr;

using Bytes = std::vector<std::byte>;

// Three bf16 rows of four elements; the frame carries rows 2 and 0.
struct Sample {
  Sample() : rows(DType::kBf16, {3, 4}) {
    for (int i = 0; i < 12; ++i) rows.data_as<Bf16>()[i] = static_cast<Bf16>(100 + i);
  }
  Bytes Encode() const {
    const DispatchSlice slice = {rows.view(), row_indices, pairs};
    const FrameHeader header = DispatchHeader(9, 5, slice);
    Bytes frame(static_cast<size_t>(header.frame_bytes()));
    WriteDispatch(header, slice, frame.data());
    return frame;
  }

  Tensor rows;
  std::vector<int32_t> row_indices = {2, 0};
  std::vector<RowExpert> pairs = {{0, 7}, {1, 7}, {1, 31}};
};

// Header and body, as a worker reads them.
absl::Status ReadDispatch(ByteChunks* bytes) {
  FrameHeader header;
  absl::Status status = ReadFrameHeader(bytes, &header);
  if (!status.ok() || header.kind != FrameKind::kDispatch) return status;
  Tensor rows(header.dtype, {header.num_rows, header.hidden});
  std::vector<RowExpert> pairs(static_cast<size_t>(header.num_pairs));
  return ReadDispatchBody(bytes, rows.view(), pairs);
}

TEST(FrameTest, LayoutIsTheDocumentedOne) {
  const Bytes frame = Sample().Encode();
  ASSERT_EQ(frame.size(), 64U + 2 * 8 + 3 * 8);
  const unsigned char expected[] = {'M', '1', 'X', 'F', 1, 0, 1, 1, 9, 0, 0, 0, 0, 0, 0, 0,
                                    5,   0,   0,   0,   2, 0, 0, 0, 4, 0, 0, 0, 3, 0, 0, 0};
  EXPECT_EQ(std::memcmp(frame.data(), expected, sizeof(expected)), 0);
  for (size_t i = sizeof(expected); i < 64; ++i) EXPECT_EQ(frame[i], std::byte{0}) << i;
  EXPECT_EQ(frame[64], std::byte{108});  // row 2 first
  EXPECT_EQ(frame[72], std::byte{100});
  EXPECT_EQ(frame[84], std::byte{7});
}

TEST(FrameTest, DispatchSurvivesEveryCutIntoPieces) {
  const Sample sample;
  const Bytes frame = sample.Encode();
  for (size_t cut = 0; cut <= frame.size(); ++cut) {
    const std::span<const std::byte> whole = frame;
    ByteChunks bytes({whole.first(cut), {}, whole.subspan(cut)});
    FrameHeader header;
    ASSERT_OK(ReadFrameHeader(&bytes, &header));
    EXPECT_EQ(header.kind, FrameKind::kDispatch);
    EXPECT_EQ(header.id, 9U);
    EXPECT_EQ(header.layer, 5);
    Tensor rows(header.dtype, {header.num_rows, header.hidden});
    std::vector<RowExpert> pairs(static_cast<size_t>(header.num_pairs));
    ASSERT_OK(ReadDispatchBody(&bytes, rows.view(), pairs));
    EXPECT_EQ(bytes.remaining(), 0);
    for (int i = 0; i < 4; ++i) {
      EXPECT_EQ(rows.data_as<Bf16>()[i], 108 + i);
      EXPECT_EQ(rows.data_as<Bf16>()[4 + i], 100 + i);
    }
    for (size_t i = 0; i < pairs.size(); ++i) {
      EXPECT_EQ(pairs[i].row, sample.pairs[i].row);
      EXPECT_EQ(pairs[i].expert, sample.pairs[i].expert);
    }
  }
}

TEST(FrameTest, RowsInASlotAreNotInTheFrame) {
  const Sample sample;
  const DispatchSlice slice = {ConstTensorView(nullptr, DType::kBf16, {3, 4}), sample.row_indices,
                               sample.pairs};
  FrameHeader header = DispatchHeader(9, 5, slice);
  header.device_slot = 15;
  Bytes frame(static_cast<size_t>(header.frame_bytes()));
  ASSERT_EQ(frame.size(), 64U + 3 * 8);
  WriteDispatch(header, slice, frame.data());
  EXPECT_EQ(frame[40], std::byte{16});
  ByteChunks bytes{std::span<const std::byte>(frame)};
  FrameHeader read;
  ASSERT_OK(ReadFrameHeader(&bytes, &read));
  EXPECT_EQ(read.device_slot, 15);
  EXPECT_FALSE(read.rows_in_frame());
  std::vector<RowExpert> pairs(3);
  ASSERT_OK(ReadDispatchPairs(&bytes, read.num_rows, pairs));
  EXPECT_EQ(pairs[2].expert, 31);
  const FrameHeader answer = CombineHeader(read);
  EXPECT_EQ(answer.device_slot, 15);
  EXPECT_EQ(answer.frame_bytes(), 64);
}

TEST(FrameTest, EmptyDispatchIsAFrame) {
  Sample sample;
  sample.row_indices.clear();
  sample.pairs.clear();
  const Bytes frame = sample.Encode();
  ByteChunks bytes{std::span<const std::byte>(frame)};
  EXPECT_OK(ReadDispatch(&bytes));
}

TEST(FrameTest, CombineHeaderAnswersTheDispatch) {
  const Sample sample;
  const FrameHeader dispatch =
      DispatchHeader(9, 5, {sample.rows.view(), sample.row_indices, sample.pairs});
  const FrameHeader combine = CombineHeader(dispatch);
  Bytes frame(static_cast<size_t>(combine.frame_bytes()));
  ASSERT_EQ(frame.size(), 64U + 3 * 8);
  WriteFrameHeader(combine, frame.data());
  ByteChunks bytes{std::span<const std::byte>(frame)};
  FrameHeader read;
  ASSERT_OK(ReadFrameHeader(&bytes, &read));
  EXPECT_EQ(read.kind, FrameKind::kCombine);
  EXPECT_EQ(read.id, 9U);
  EXPECT_EQ(read.num_pairs, 3);
  EXPECT_EQ(bytes.remaining(), 24);
}

TEST(FrameTest, ErrorCarriesCodeAndMessage) {
  for (const size_t length : {size_t{0}, size_t{10}, size_t{4096}, size_t{10000}}) {
    const std::string message(length, 'x');
    const std::string frame = EncodeErrorFrame(3, absl::ResourceExhaustedError(message));
    ByteChunks bytes{std::as_bytes(std::span(frame))};
    FrameHeader header;
    ASSERT_OK(ReadFrameHeader(&bytes, &header));
    EXPECT_EQ(header.kind, FrameKind::kError);
    EXPECT_EQ(header.id, 3U);
    EXPECT_EQ(ReadErrorBody(&bytes, header), absl::ResourceExhaustedError(message.substr(0, 4096)));
  }
}

TEST(FrameTest, CutsErrorMessagesBetweenCharacters) {
  for (const std::string character : {"x", "\u00E9", "\u20AC", "\U0001F600"}) {
    std::string message;
    while (message.size() < 5000) message += character;
    for (size_t shift = 0; shift < 4; ++shift) {
      const std::string frame =
          EncodeErrorFrame(3, absl::InternalError(std::string(shift, 'x') + message));
      ByteChunks bytes{std::as_bytes(std::span(frame))};
      FrameHeader header;
      ASSERT_OK(ReadFrameHeader(&bytes, &header));
      const absl::Status status = ReadErrorBody(&bytes, header);
      EXPECT_EQ((status.message().size() - shift) % character.size(), 0U) << character << shift;
      EXPECT_GT(status.message().size(), 4096 - 4);
    }
  }
}

void Put32(Bytes* frame, size_t offset, int32_t value) {
  std::memcpy(frame->data() + offset, &value, sizeof(value));
}

struct Malformed {
  const char* name;
  std::function<void(Bytes*)> spoil;
  const char* message;
};

TEST(FrameTest, RefusesMalformedFramesNamingTheField) {
  const auto put = [](size_t offset, int32_t value) {
    return [offset, value](Bytes* frame) { Put32(frame, offset, value); };
  };
  const auto put_byte = [](size_t offset, int value) {
    return [offset, value](Bytes* frame) { (*frame)[offset] = static_cast<std::byte>(value); };
  };
  const auto resize = [](size_t size) { return [size](Bytes* frame) { frame->resize(size); }; };
  constexpr int32_t kMin = INT32_MIN;
  constexpr int32_t kMax = INT32_MAX;
  const std::vector<Malformed> cases = {
      {"nothing", resize(0), "0 bytes, want at least 64"},
      {"short header", resize(63), "63 bytes"},
      {"header only", resize(64), "64 bytes, its header says 104"},
      {"one byte short", resize(103), "its header says 104"},
      {"one byte long", resize(105), "its header says 104"},
      {"magic", put(0, 0x12345678), "magic"},
      {"version 0", put_byte(4, 0), "version 0"},
      {"version 2", put_byte(4, 2), "version 2"},
      {"version high byte", put_byte(5, 1), "version 257"},
      {"kind 0", put_byte(6, 0), "kind 0"},
      {"kind 4", put_byte(6, 4), "kind 4"},
      {"dtype 2", put_byte(7, 2), "dtype 2"},
      {"dtype 255", put_byte(7, 255), "dtype 255"},
      {"other dtype", put_byte(7, 0), "its header says"},
      {"negative layer", put(16, -1), "layer -1"},
      {"huge layer", put(16, kMax), "layer"},
      {"negative rows", put(20, -1), "num_rows -1"},
      {"least rows", put(20, kMin), "num_rows"},
      {"most rows", put(20, kMax), "num_rows"},
      {"one row more", put(20, 3), "its header says"},
      {"no rows but pairs", put(20, 0), "its header says"},
      {"hidden 0", put(24, 0), "hidden 0"},
      {"negative hidden", put(24, -4), "hidden -4"},
      {"most hidden", put(24, kMax), "hidden"},
      {"hidden 5", put(24, 5), "its header says"},
      {"negative pairs", put(28, -1), "num_pairs -1"},
      {"most pairs", put(28, kMax), "num_pairs"},
      {"one pair more", put(28, 4), "its header says"},
      {"code in a dispatch", put(32, 3), "code 3"},
      {"message in a dispatch", put(36, 8), "message_bytes 8"},
      {"slot too high", put(40, 17), "place of rows 17, want 0 to 16"},
      {"negative slot", put(40, -1), "place of rows -1"},
      {"rows here and in a slot", put(40, 1), "frame of 104 bytes, its header says 88"},
      {"padding", put_byte(44, 1), "not zero"},
      {"padding end", put_byte(63, 1), "not zero"},
      {"row too high", put(80, 2), "pair's row 2, want 0 to 1"},
      {"negative row", put(80, -1), "pair's row -1"},
      {"negative expert", put(84, -1), "pair's expert -1"},
      {"huge expert", put(84, kMax), "pair's expert"},
      {"error with rows", put_byte(6, 3), "num_rows 2, want 0 to 0"},
      {"combine with rows", put_byte(6, 2), "num_rows 2"},
      {"products overflow",
       [](Bytes* frame) {
         Put32(frame, 20, 1 << 20);
         Put32(frame, 24, 1 << 20);
         Put32(frame, 28, 1 << 24);
       },
       "its header says"},
      {"no rows at all",
       [](Bytes* frame) {
         Put32(frame, 20, 0);
         frame->erase(frame->begin() + 64, frame->begin() + 80);
       },
       "pair's row 0, want 0 to -1"},
  };
  for (const Malformed& malformed : cases) {
    Bytes frame = Sample().Encode();
    malformed.spoil(&frame);
    ByteChunks bytes{std::span<const std::byte>(frame)};
    EXPECT_THAT(ReadDispatch(&bytes),
                StatusIs(absl::StatusCode::kInvalidArgument, HasSubstr(malformed.message)))
        << malformed.name;
  }
}

TEST(FrameTest, MalformedFrameStillGivesItsId) {
  Bytes frame = Sample().Encode();
  Put32(&frame, 24, -4);
  ByteChunks bytes{std::span<const std::byte>(frame)};
  FrameHeader header;
  EXPECT_FALSE(ReadFrameHeader(&bytes, &header).ok());
  EXPECT_EQ(header.id, 9U);
}

TEST(FrameTest, RefusesErrorsWithoutMeaning) {
  for (const auto& [offset, value] : std::vector<std::pair<size_t, int32_t>>{
           {32, 0}, {32, 17}, {32, -1}, {36, -1}, {36, 5000}, {36, 3}, {28, 1}}) {
    const std::string text = EncodeErrorFrame(3, absl::InternalError("message"));
    Bytes frame(text.size());
    std::memcpy(frame.data(), text.data(), text.size());
    Put32(&frame, offset, value);
    ByteChunks bytes{std::span<const std::byte>(frame)};
    FrameHeader header;
    EXPECT_FALSE(ReadFrameHeader(&bytes, &header).ok()) << offset << " " << value;
  }
}

}  // namespace
}  // namespace m1
