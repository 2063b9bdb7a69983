#include "common/shm/slots.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cstring>
#include <deque>
#include <map>
#include <memory>
#include <random>
#include <thread>

#include "common/base/doorbell.h"
#include "tests/support/property.h"
#include "tests/support/status_matchers.h"

namespace m1 {
namespace {

using ::testing::HasSubstr;

constexpr SlotLayout kLayout = {.num_slots = 3, .slot_bytes = 8192};

// Memory as a memfd gives it: zeros, aligned to pages.
class Memory {
 public:
  explicit Memory(const SlotLayout& layout)
      : bytes_(static_cast<std::byte*>(
            std::aligned_alloc(4096, static_cast<size_t>(layout.num_bytes())))) {
    std::memset(bytes_.get(), 0, static_cast<size_t>(layout.num_bytes()));
  }
  std::byte* data() const { return bytes_.get(); }
  // A 32-bit word of the words' cache lines, as a hostile peer would write it.
  std::atomic<uint32_t>& word(size_t index) {
    return reinterpret_cast<std::atomic<uint32_t>*>(bytes_.get())[index];
  }

 private:
  struct Free {
    void operator()(std::byte* bytes) const { std::free(bytes); }
  };
  std::unique_ptr<std::byte, Free> bytes_;
};

void Put(std::byte* to, uint32_t value) { std::memcpy(to, &value, sizeof(value)); }
uint32_t Get(const std::byte* from) {
  uint32_t value = 0;
  std::memcpy(&value, from, sizeof(value));
  return value;
}

struct Ends {
  explicit Ends(const SlotLayout& layout = kLayout)
      : memory(layout), client(memory.data(), layout), worker(memory.data(), layout) {}
  Memory memory;
  DispatchSlots client;
  AnswerSlots worker;
};

TEST(SlotsTest, LayoutsAreBounded) {
  EXPECT_OK(SlotLayout{}.Validate());
  const auto refused = [](const SlotLayout& layout, const char* field) {
    EXPECT_THAT(layout.Validate(), StatusIs(absl::StatusCode::kInvalidArgument, HasSubstr(field)));
  };
  refused({0, 8192}, "num_slots 0");
  refused({-1, 8192}, "num_slots -1");
  refused({9, 8192}, "num_slots 9");
  refused({8, 4096}, "slot_bytes 4096");
  refused({8, 8193}, "slot_bytes 8193");
  refused({8, -8192}, "slot_bytes");
  refused({8, INT64_MIN}, "slot_bytes");
  refused({8, INT64_MAX - 4095}, "slot_bytes");
}

TEST(SlotsTest, FramesGoThereAndBackManyTimes) {
  Ends ends;
  for (uint32_t round = 1; round <= 1000; ++round) {
    const int32_t slot = ends.client.Free();
    ASSERT_GE(slot, 0);
    Put(ends.client.dispatch(slot), round);
    ends.client.Send(slot, 4 + round % 8000);
    const auto dispatch = ends.worker.NextDispatch();
    ASSERT_TRUE(dispatch.has_value());
    ASSERT_FALSE(ends.worker.NextDispatch().has_value());
    ASSERT_EQ(dispatch->bytes.size(), 4 + round % 8000);
    ASSERT_EQ(Get(dispatch->bytes.data()), round);
    ASSERT_FALSE(ends.client.NextAnswer().has_value());
    Put(ends.worker.answer(dispatch->slot), ~round);
    ends.worker.Answer(dispatch->slot, 4);
    const auto answer = ends.client.NextAnswer();
    ASSERT_TRUE(answer.has_value());
    ASSERT_EQ(answer->bytes.size(), 4U);
    ASSERT_EQ(Get(answer->bytes.data()), ~round);
    ends.client.Release(answer->slot);
    ASSERT_FALSE(ends.client.NextAnswer().has_value());
  }
}

TEST(SlotsTest, FullUntilAnAnswerIsReleasedAndAnswersComeInAnyOrder) {
  Ends ends;
  for (int32_t i = 0; i < kLayout.num_slots; ++i) ends.client.Send(ends.client.Free(), 8);
  EXPECT_EQ(ends.client.Free(), -1);
  std::vector<int32_t> slots;
  while (const auto frame = ends.worker.NextDispatch()) slots.push_back(frame->slot);
  ASSERT_EQ(slots.size(), 3U);
  EXPECT_EQ(ends.worker.num_open(), 3);
  ends.worker.Answer(slots[2], 8);
  EXPECT_EQ(ends.client.Free(), -1);
  const auto answer = ends.client.NextAnswer();
  ASSERT_TRUE(answer.has_value());
  EXPECT_EQ(answer->slot, slots[2]);
  ends.client.Release(answer->slot);
  EXPECT_EQ(ends.client.Free(), slots[2]);
}

TEST(SlotsTest, HostileSizesStayInsideTheSlot) {
  Ends ends;
  ends.client.Send(0, 8);
  for (const uint32_t size : {0U, 8193U, 0x7fffffffU, 0x80000000U, 0xffffffffU}) {
    ends.memory.word(0).fetch_add(1);  // the turn of slot 0
    ends.memory.word(1) = size;
    const auto frame = ends.worker.NextDispatch();
    ASSERT_TRUE(frame.has_value());
    EXPECT_EQ(frame->bytes.size(), std::min<size_t>(size, 8192));
    EXPECT_EQ(frame->bytes.data(), ends.memory.data() + 4096);
    ends.worker.Answer(frame->slot, 8);
  }
}

TEST(SlotsTest, WordsOfOtherTurnsAndSlotsAreNoAnswers) {
  Ends ends;
  ends.client.Send(0, 8);
  for (size_t word = 16; word < 32; ++word) ends.memory.word(word) = 7;
  EXPECT_FALSE(ends.client.NextAnswer().has_value());
  ends.memory.word(16) = 1;  // an answer before its time: the frame's own checks refuse it
  ends.memory.word(17) = 0xffffffffU;
  const auto early = ends.client.NextAnswer();
  ASSERT_TRUE(early.has_value());
  EXPECT_EQ(early->bytes.size(), 8192U);
}

TEST(SlotsTest, SlotThatIsWorkedOnIsNotTakenAgain) {
  Ends ends;
  ends.client.Send(0, 8);
  ASSERT_TRUE(ends.worker.NextDispatch().has_value());
  ends.memory.word(0) = 77;
  EXPECT_FALSE(ends.worker.NextDispatch().has_value());
  ends.worker.Answer(0, 8);
  EXPECT_TRUE(ends.worker.NextDispatch().has_value());
  EXPECT_EQ(ends.worker.num_open(), 1);
}

// Random interleavings of both ends against a plain map of what is under way.
TEST(SlotsTest, RandomInterleavingsLoseAndDoubleNothing) {
  std::mt19937 random(3);
  Ends ends({.num_slots = 5, .slot_bytes = 8192});
  uint32_t next = 1;
  std::map<int32_t, uint32_t> sent;      // slot -> value, not yet taken
  std::map<int32_t, uint32_t> taken;     // by the worker
  std::map<int32_t, uint32_t> answered;  // and not yet read
  uint32_t num_read = 0;
  for (int step = 0; step < PropertySteps(200000); ++step) {
    switch (random() % 3) {
      case 0: {
        const int32_t slot = ends.client.Free();
        ASSERT_EQ(slot == -1, sent.size() + taken.size() + answered.size() == 5);
        if (slot == -1) break;
        Put(ends.client.dispatch(slot), next);
        ends.client.Send(slot, 4);
        sent[slot] = next++;
        break;
      }
      case 1: {
        if (random() % 2 == 0 && !taken.empty()) {
          auto any = std::next(taken.begin(), static_cast<int>(random() % taken.size()));
          Put(ends.worker.answer(any->first), any->second * 3);
          ends.worker.Answer(any->first, 4);
          answered.insert(taken.extract(any));
          break;
        }
        const auto frame = ends.worker.NextDispatch();
        ASSERT_EQ(frame.has_value(), !sent.empty());
        if (!frame.has_value()) break;
        ASSERT_EQ(Get(frame->bytes.data()), sent.at(frame->slot));
        taken.insert(sent.extract(frame->slot));
        break;
      }
      default: {
        const auto frame = ends.client.NextAnswer();
        ASSERT_EQ(frame.has_value(), !answered.empty());
        if (!frame.has_value()) break;
        ASSERT_EQ(Get(frame->bytes.data()), answered.at(frame->slot) * 3);
        answered.erase(frame->slot);
        ends.client.Release(frame->slot);
        ++num_read;
      }
    }
    ASSERT_EQ(ends.worker.num_open(), static_cast<int32_t>(taken.size()));
  }
  EXPECT_GT(num_read, static_cast<uint32_t>(PropertySteps(200000) / 10));
}

// Two threads and their doorbells, as two processes have them.
TEST(SlotsTest, ThreadsExchangeWithoutLossOrRace) {
  const uint32_t num_frames = static_cast<uint32_t>(PropertySteps(60000));
  Ends ends;
  DoorbellWords client_words;
  DoorbellWords worker_words;
  std::thread worker([&] {
    Doorbell bell(&worker_words);
    for (uint32_t done = 0; done < num_frames;) {
      const uint32_t seen = bell.count();
      const auto frame = ends.worker.NextDispatch();
      if (!frame.has_value()) {
        bell.Wait(seen, absl::InfiniteFuture(), absl::ZeroDuration());
        continue;
      }
      Put(ends.worker.answer(frame->slot), Get(frame->bytes.data()) + 1);
      ends.worker.Answer(frame->slot, 4);
      Doorbell(&client_words).Ring();
      ++done;
    }
  });
  Doorbell bell(&client_words);
  uint32_t next = 0;
  uint32_t num_read = 0;
  uint64_t sum = 0;
  while (num_read < num_frames) {
    const uint32_t seen = bell.count();
    bool moved = false;
    for (int32_t slot = ends.client.Free(); slot >= 0 && next < num_frames;
         slot = ends.client.Free()) {
      Put(ends.client.dispatch(slot), next++);
      ends.client.Send(slot, 4);
      Doorbell(&worker_words).Ring();
      moved = true;
    }
    while (const auto frame = ends.client.NextAnswer()) {
      sum += Get(frame->bytes.data());
      ends.client.Release(frame->slot);
      ++num_read;
      moved = true;
    }
    if (!moved) bell.Wait(seen, absl::InfiniteFuture(), absl::ZeroDuration());
  }
  worker.join();
  EXPECT_EQ(sum, uint64_t{num_frames} * (num_frames + 1) / 2);
}

}  // namespace
}  // namespace m1
