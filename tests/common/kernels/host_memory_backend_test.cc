// Memory operations of backends whose operands are the host's.
#include <gtest/gtest.h>

#include <cstdint>
#include <vector>

#include "common/kernels/backend.h"
#include "tests/common/kernels/kernel_testing.h"
#include "tests/support/status_matchers.h"

namespace m1 {
namespace {

std::vector<int32_t> Values(const Tensor& tensor) {
  const int32_t* data = tensor.data_as<int32_t>();
  return {data, data + tensor.shape().num_elements()};
}

class HostMemoryBackendTest : public testing::Test {
 protected:
  HostMemoryBackendTest() {
    for (int32_t i = 0; i < 6; ++i) x_.data_as<int32_t>()[i] = i;
  }

  std::unique_ptr<KernelBackend> backend_ = CreateReferenceBackend();
  Tensor x_{DType::kI32, {3, 2}};
};

TEST_F(HostMemoryBackendTest, NewTensorsAreZero) {
  const Tensor tensor = backend_->NewTensor(DType::kI32, {2, 2});
  EXPECT_EQ(Values(tensor), std::vector<int32_t>(4, 0));
}

TEST_F(HostMemoryBackendTest, TransfersCopyAndZeroClears) {
  Tensor up = backend_->NewTensor(DType::kI32, {3, 2});
  Tensor down(DType::kI32, {3, 2});
  ASSERT_OK(backend_->Upload(x_.view(), up.view()));
  ASSERT_OK(backend_->Zero(x_.view().Rows(1, 1)));
  ASSERT_OK(backend_->Download(up.view(), down.view()));
  EXPECT_EQ(Values(down), (std::vector<int32_t>{0, 1, 2, 3, 4, 5}));
  EXPECT_EQ(Values(x_), (std::vector<int32_t>{0, 1, 0, 0, 4, 5}));
}

TEST_F(HostMemoryBackendTest, CopyRowsTakesRowsInAnyOrder) {
  Tensor out = Poisoned(DType::kI32, {4, 2});
  ASSERT_OK(backend_->CopyRows(x_.view(), std::vector<int32_t>{2, 0, 2}, out.view(),
                               std::vector<int32_t>{0, 3, 1}));
  EXPECT_EQ(Values(out), (std::vector<int32_t>{4, 5, 4, 5, -1, -1, 0, 1}));
  ASSERT_OK(backend_->CopyRow(x_.view(), 0, x_.view(), 1));
  EXPECT_EQ(Values(x_), (std::vector<int32_t>{0, 1, 0, 1, 4, 5}));
}

TEST_F(HostMemoryBackendTest, NothingIsCopiedOfNoRows) {
  Tensor none(DType::kBf16, {0, 4});
  ASSERT_OK(backend_->CopyRows(none.view(), {}, none.view(), {}));
  ASSERT_OK(backend_->Upload(none.view(), none.view()));
  ASSERT_OK(backend_->Zero(none.view()));
}

}  // namespace
}  // namespace m1
