// Copies of mapped files: the same bytes at the same addresses, whatever the sizes; and files that
// are not any more what was mapped.
#include "common/model/weight_copy.h"

#include <fcntl.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <sys/mman.h>
#include <sys/vfs.h>
#include <unistd.h>

#include <algorithm>
#include <cstdint>
#include <filesystem>
#include <fstream>
#include <memory>
#include <numeric>
#include <span>
#include <string>
#include <vector>

#include "common/model/prefetch.h"
#include "common/model/safetensors_writer.h"
#include "tests/support/status_matchers.h"
#include "tests/support/tiny_checkpoint.h"

namespace m1 {
namespace {

using testing::HasSubstr;

constexpr int64_t kPage = 4096;
constexpr int64_t kMiB = int64_t{1} << 20;
constexpr const char* kName = "w.safetensors";

class WeightCopyTest : public testing::Test {
 protected:
  // One file of byte tensors "t00", "t01", ... that all hold other bytes.
  void Write(const std::string& name, const std::vector<int64_t>& sizes) {
    std::vector<SafetensorsTensor> tensors;
    for (size_t i = 0; i < sizes.size(); ++i) {
      const std::string number = std::to_string(i);
      tensors.push_back(
          {"t" + std::string(2 - number.size(), '0') + number, DType::kU8, Shape({sizes[i]})});
    }
    ASSERT_OK_AND_ASSIGN(const auto writer,
                         SafetensorsWriter::Create(directory_.Join(name), tensors));
    std::vector<std::byte> bytes(
        static_cast<size_t>(std::accumulate(sizes.begin(), sizes.end(), int64_t{0})));
    for (size_t i = 0; i < bytes.size(); ++i) {
      bytes[i] = static_cast<std::byte>((i * 2654435761U) >> 13);
    }
    ASSERT_OK(writer->Append(bytes));
    ASSERT_OK(writer->Finish());
  }
  std::unique_ptr<SafetensorsFile> Open(const std::string& name = kName) {
    return SafetensorsFile::Open(directory_.path(), name).value();
  }
  static FileViews AllOf(const SafetensorsFile& file) {
    FileViews views{&file, {}};
    for (const SafetensorsEntry& entry : file.entries()) views.views.push_back(file.view(entry));
    return views;
  }
  static void ExpectEqual(const SafetensorsFile& got, const SafetensorsFile& want) {
    const int64_t size = want.file().size_bytes();
    ASSERT_EQ(got.file().size_bytes(), size);
    EXPECT_TRUE(std::equal(got.mapping(), got.mapping() + size, want.mapping()));
  }

  TempDirectory directory_;
};

TEST_F(WeightCopyTest, OddSizesHaveTheBytesOfTheFile) {
  const std::vector<std::vector<int64_t>> cases = {{1},
                                                   {0, 1, 0},
                                                   {kPage - 1, 1, kPage + 1},
                                                   {3, 8 * kMiB + 5, 7},  // more than a piece
                                                   {2 * kMiB - 1, 17 * kMiB, 2 * kMiB + 1, 1},
                                                   std::vector<int64_t>(40, 100'003)};
  for (const std::vector<int64_t>& sizes : cases) {
    Write(kName, sizes);
    const auto copied = Open();
    const auto mapped = Open();
    const FileViews views = AllOf(*copied);
    ASSERT_OK(CopyPages({&views, 1}, /*drop_cache=*/false, nullptr));
    ASSERT_OK(PrefetchPages(AllOf(*mapped).views, nullptr));
    ExpectEqual(*copied, *mapped);
  }
}

// By /proc/self/maps.
bool IsMappedFromFile(const void* address) {
  std::ifstream maps("/proc/self/maps");
  const auto wanted = reinterpret_cast<uintptr_t>(address);
  for (std::string line; std::getline(maps, line);) {
    size_t end_of_first = 0;
    const uintptr_t begin = std::stoull(line, &end_of_first, 16);
    const uintptr_t end = std::stoull(line.substr(end_of_first + 1), nullptr, 16);
    if (wanted >= begin && wanted < end) return line.find(".safetensors") != std::string::npos;
  }
  return false;
}

TEST_F(WeightCopyTest, OnlyThePagesOfTheViewsAreCopied) {
  Write(kName, {5 * kPage, 10 * kPage, 5 * kPage});
  const auto copied = Open();
  const auto mapped = Open();
  const FileViews views{copied.get(), {copied->view(copied->entries()[1])}};
  ASSERT_OK(CopyPages({&views, 1}, false, nullptr));
  const auto* middle = static_cast<const std::byte*>(views.views[0].data());
  EXPECT_FALSE(IsMappedFromFile(middle));
  EXPECT_FALSE(IsMappedFromFile(middle + 10 * kPage - 1));
  EXPECT_TRUE(IsMappedFromFile(middle - 2 * kPage));
  EXPECT_TRUE(IsMappedFromFile(middle + 12 * kPage));
  ExpectEqual(*copied, *mapped);
}

TEST_F(WeightCopyTest, FilesAreCopiedOneAfterAnotherWithOneProgress) {
  Write("a.safetensors", {3 * kMiB + 1});
  Write("b.safetensors", {kMiB, 12 * kMiB});
  const auto a = Open("a.safetensors");
  const auto b = Open("b.safetensors");
  const std::vector<FileViews> files = {AllOf(*a), AllOf(*b)};
  std::vector<int64_t> done;
  int64_t total = 0;
  ASSERT_OK(CopyPages(files, false, [&](int64_t done_bytes, int64_t total_bytes) {
    done.push_back(done_bytes);
    total = total_bytes;
    return true;
  }));
  EXPECT_TRUE(std::is_sorted(done.begin(), done.end()));
  EXPECT_EQ(done.back(), total);
  EXPECT_GE(total, 16 * kMiB + 1);
  EXPECT_LE(total, 16 * kMiB + 1 + 4 * kPage);
  ExpectEqual(*a, *Open("a.safetensors"));
  ExpectEqual(*b, *Open("b.safetensors"));
}

TEST_F(WeightCopyTest, FilesThatChangedAreErrorsAndTheirViewsStay) {
  const auto copy = [this](const auto& change) {
    Write(kName, {kMiB, 100});
    const auto file = Open();
    change(directory_.Join(kName));
    const FileViews views = AllOf(*file);
    const absl::Status status = CopyPages({&views, 1}, false, nullptr);
    EXPECT_TRUE(IsMappedFromFile(views.views[0].data()));
    return status;
  };
  EXPECT_THAT(
      copy([](const std::string& path) { std::filesystem::resize_file(path, 5000); }),
      StatusIs(absl::StatusCode::kDataLoss, HasSubstr("w.safetensors: has 5000 bytes, had ")));
  EXPECT_THAT(copy([](const std::string& path) { std::filesystem::remove(path); }),
              StatusIs(absl::StatusCode::kNotFound, HasSubstr("No such file")));
  EXPECT_THAT(copy([](const std::string& path) {
                std::filesystem::copy_file(path, path + ".new");
                std::filesystem::rename(path + ".new", path);
              }),
              StatusIs(absl::StatusCode::kDataLoss, HasSubstr("another file than when it was")));
}

TEST_F(WeightCopyTest, FilesThatMayNotBeReadAnyMoreAreErrors) {
  if (geteuid() == 0) GTEST_SKIP() << "root may read everything";
  Write(kName, {kMiB});
  const auto file = Open();
  std::filesystem::permissions(directory_.Join(kName), std::filesystem::perms::none);
  const FileViews views = AllOf(*file);
  EXPECT_THAT(CopyPages({&views, 1}, false, nullptr),
              StatusIs(absl::StatusCode::kDataLoss, HasSubstr("Permission denied")));
}

TEST_F(WeightCopyTest, AFileThatEndsWhileItIsReadIsAnError) {
  Write(kName, {3 * kMiB});
  ASSERT_OK_AND_ASSIGN(const InputFile file, InputFile::Open(directory_.path(), kName));
  std::filesystem::resize_file(directory_.Join(kName), 5000);
  std::vector<std::byte> out(3 * kMiB);
  EXPECT_THAT(file.ReadAt(100, out),
              StatusIs(absl::StatusCode::kDataLoss, HasSubstr("the file ends at byte 5000")));
  EXPECT_OK(file.ReadAt(0, std::span(out).first(5000)));
}

// Bytes of the file that the page cache holds.
int64_t CachedBytes(const std::string& path) {
  const auto size = static_cast<size_t>(std::filesystem::file_size(path));
  const int fd = open(path.c_str(), O_RDONLY | O_CLOEXEC);
  void* data = mmap(nullptr, size, PROT_READ, MAP_SHARED, fd, 0);
  std::vector<unsigned char> pages((size + kPage - 1) / kPage);
  EXPECT_EQ(mincore(data, size, pages.data()), 0);
  munmap(data, size);
  close(fd);
  return kPage * std::count_if(pages.begin(), pages.end(), [](unsigned char p) { return p & 1; });
}

TEST_F(WeightCopyTest, ThePageCacheForgetsWhatIsCopiedWhenAsked) {
  Write(kName, {20 * kMiB});
  const std::string path = directory_.Join(kName);
  const int fd = open(path.c_str(), O_RDONLY | O_CLOEXEC);
  struct statfs info = {};
  ASSERT_EQ(fstatfs(fd, &info), 0);
  constexpr decltype(info.f_type) kTmpfs = 0x01021994;
  const bool is_synced = fsync(fd) == 0;  // a page that is not yet on the disk stays
  close(fd);
  if (info.f_type == kTmpfs || !is_synced) GTEST_SKIP() << "files are in memory here";
  for (const bool drop_cache : {false, true}) {
    const auto file = Open();
    const FileViews views = AllOf(*file);
    ASSERT_OK(CopyPages({&views, 1}, drop_cache, nullptr));
    if (drop_cache) {
      EXPECT_LT(CachedBytes(path), 2 * kMiB);
    } else {
      EXPECT_GE(CachedBytes(path), 20 * kMiB);
    }
  }
}

}  // namespace
}  // namespace m1
