// One answer on a GPU: the bits of a row do not depend on how many rows there are, on where it
// stands among them and in which group, on the tile that takes it, or on the day. The simulator
// adds in an order of its own, so that only a real GPU shows what its mma does.
#include <algorithm>
#include <functional>
#include <numeric>
#include <string>
#include <vector>

#include "tests/common/kernels/cuda/cuda_backend_testing.h"

namespace m1 {
namespace {

// A product with weights on the GPU.
struct Product {
  std::string name;
  DType x_type;
  DType out_type;
  int64_t k;
  int64_t n;
  std::function<absl::Status(ConstTensorView x, TensorView out)> run;
};

class CudaBitsTest : public CudaBackendTest {
 protected:
  static int64_t Hidden() { return SizesUnderTest().back().hidden; }
  static int64_t MostRows() { return OnRealGpu() ? 200 : 41; }
  static int Repeats() { return OnRealGpu() ? 50 : 2; }
  // Numbers of rows, or places of a row.
  static std::vector<int64_t> Counts() {
    if (!OnRealGpu()) return {1, 8, 34};
    std::vector<int64_t> counts(static_cast<size_t>(MostRows()));
    std::iota(counts.begin(), counts.end(), 1);
    return counts;
  }

  Product Linear(const std::string& name, DType x_type, DType out_type, Epilogue epilogue,
                 const MatrixView& w) {
    return {name,     x_type,
            out_type, w.dim(1),
            w.dim(0), [=, this](auto x, auto out) {
              return gpu_->Linear(x, w, epilogue, out); }};
  }
  Product Gated(const std::string& name, const MatrixView& gate, const MatrixView& up) {
    return {name,         DType::kBf16,
            DType::kBf16, gate.dim(1),
            gate.dim(0),  [=, this](auto x, auto out) {
              return gpu_->GatedUp(x, gate, up, out); }};
  }

  // Of every kernel that multiplies, `k` columns each.
  std::vector<Product> Products(int64_t k) {
    const int64_t n = OnRealGpu() ? 1'003 : 35;
    const MatrixView w = Keep(RandomWeights(DType::kBf16, n, k, 1));
    const MatrixView up = Keep(RandomWeights(DType::kBf16, n, k, 2));
    const MatrixView gate = Keep(RandomWeights(DType::kF32, 32, k, 3));
    std::vector<Product> products = {
        Linear("linear to fp32", DType::kBf16, DType::kF32, Epilogue::kNone, w),
        Linear("linear to bf16", DType::kBf16, DType::kBf16, Epilogue::kSilu, w),
        Linear("three terms", DType::kF32, DType::kF32, Epilogue::kNone, w),
        Linear("floats", DType::kF32, DType::kF32, Epilogue::kNone, gate), Gated("gated", w, up)};
    for (const int64_t group : {0, 32, 64}) {
      const std::string name = group == 0 ? "int8" : "int4 in groups of " + std::to_string(group);
      const MatrixView one = Keep(RandomIntegers(group, n, k, 4));
      const MatrixView two = Keep(RandomIntegers(group, n, k, 6));
      products.push_back(Linear(name, DType::kBf16, DType::kF32, Epilogue::kNone, one));
      products.push_back(Gated(name + ", gated", one, two));
    }
    return products;
  }

  Tensor Run(const Product& product, ConstTensorView x) {
    Tensor out = Poison(product.out_type, {x.dim(0), product.n});
    EXPECT_OK(product.run(x, out.view()));
    return OnHost(out);
  }
  Tensor RandomRows(const Product& product, int64_t rows) {
    return OnGpu(RandomMatrix(product.x_type, {rows, product.k}, 9, -1));
  }

  // On the GPU for the rest of the test.
  MatrixView Keep(const Tensor& host) {
    kept_.push_back(OnGpu(host));
    return ConstTensorView(kept_.back().view());
  }
  MatrixView Keep(const Integers& host) {
    const ConstTensorView values = Keep(host.values).values;
    return {values, Keep(host.scales).values};
  }

  std::vector<Tensor> kept_;
};

TEST_F(CudaBitsTest, ProductsOfARowAreTheSameInAnyNumberOfRows) {
  for (const Product& product : Products(Hidden())) {
    SCOPED_TRACE(product.name);
    const Tensor x = RandomRows(product, MostRows());
    const Tensor all = Run(product, x.view());
    for (const int64_t count : Counts()) {
      const Tensor some = Run(product, x.view().Rows(0, count));
      ASSERT_TRUE(SameBits(some.view(), all.view().Rows(0, count))) << count << " rows";
      const Tensor alone = Run(product, x.view().Rows(count - 1, 1));
      ASSERT_TRUE(SameBits(alone.view(), all.view().Rows(count - 1, 1))) << "row " << count - 1;
    }
  }
}

// Every column of a tile, and every tile, gets the same row.
TEST_F(CudaBitsTest, ProductsOfARowAreTheSameAtAnyPlace) {
  for (const Product& product : Products(Hidden())) {
    SCOPED_TRACE(product.name);
    const Tensor row = RandomRows(product, 1);
    const Tensor alone = Run(product, row.view());
    for (const int64_t count : {int64_t{8}, int64_t{32}, MostRows()}) {
      Tensor x = gpu_->NewTensor(product.x_type, {count, product.k});
      std::vector<int32_t> places(static_cast<size_t>(count));
      std::iota(places.begin(), places.end(), 0);
      const std::vector<int32_t> zeros(places.size(), 0);
      ASSERT_OK(gpu_->CopyRows(row.view(), zeros, x.view(), places));
      const Tensor all = Run(product, x.view());
      for (int64_t r = 0; r < count; ++r) {
        ASSERT_TRUE(SameBits(all.view().Rows(r, 1), alone.view()))
            << "row " << r << " of " << count;
      }
    }
  }
}

// Every row of a tile of weights holds the same numbers.
TEST_F(CudaBitsTest, ProductsAreTheSameForEqualFeatures) {
  const int64_t n = OnRealGpu() ? 1'003 : 35;
  const Tensor one = RandomWeights(DType::kBf16, 1, Hidden(), 1);
  Tensor w(DType::kBf16, {n, Hidden()});
  for (int64_t f = 0; f < n; ++f) {
    ASSERT_OK(CreateReferenceBackend()->Upload(one.view(), w.view().Rows(f, 1)));
  }
  const Tensor gpu_w = OnGpu(w);
  for (const DType x_type : kActTypes) {
    const Product product = Linear("equal", x_type, DType::kF32, Epilogue::kNone, gpu_w.view());
    for (const int64_t rows : RowsUnderTest()) {
      const Tensor x = RandomRows(product, rows);
      const Tensor out = Run(product, x.view());
      for (int64_t i = 0; i < rows * n; ++i) {
        ASSERT_EQ(out.data_as<float>()[i], out.data_as<float>()[i / n * n])
            << "row " << i / n << " of " << rows << ", feature " << i % n;
      }
    }
  }
}

// A step of an mma that adds zeros leaves the sum as it was: columns of zeros at the end of x or w.
TEST_F(CudaBitsTest, ColumnsOfZerosChangeNoBit) {
  const int64_t k = Hidden();
  const int64_t wide = k + 72;
  for (const bool zeros_in_x : {true, false}) {
    for (const DType x_type : kActTypes) {
      for (const int64_t rows : RowsUnderTest()) {
        const int64_t n = 35;
        Tensor x = RandomMatrix(x_type, {rows, wide}, 1, -1);
        Tensor w = RandomMatrix(DType::kBf16, {n, wide}, 2, -4);
        // `tensor` without its last columns; where these are to be zeros, they are.
        const auto cut = [&](Tensor& tensor, bool zero) {
          Tensor narrow(tensor.dtype(), {tensor.shape()[0], k});
          const int64_t bytes = DTypeBytes(tensor.dtype());
          for (int64_t r = 0; r < tensor.shape()[0]; ++r) {
            auto* row = static_cast<std::byte*>(tensor.view().data()) + r * wide * bytes;
            std::copy_n(row, k * bytes,
                        static_cast<std::byte*>(narrow.view().data()) + r * k * bytes);
            if (zero) std::fill(row + k * bytes, row + wide * bytes, std::byte{0});
          }
          return narrow;
        };
        const Tensor narrow_x = OnGpu(cut(x, zeros_in_x));
        const Tensor narrow_w = OnGpu(cut(w, !zeros_in_x));
        const Tensor wide_w = OnGpu(w);
        const Tensor want =
            Run(Linear("", x_type, DType::kF32, Epilogue::kNone, narrow_w.view()), narrow_x.view());
        const Tensor got =
            Run(Linear("", x_type, DType::kF32, Epilogue::kNone, wide_w.view()), OnGpu(x).view());
        ASSERT_TRUE(SameBits(got.view(), want.view())) << rows;
      }
    }
  }
}

// The same expert in groups of all sizes, beside others.
TEST_F(CudaBitsTest, ExpertsGiveARowTheSameInAnyGroup) {
  const ModelSizes sizes = SizesUnderTest().back();
  std::vector<int64_t> group_rows = {1, 3, 9, 12};
  if (OnRealGpu()) group_rows = {1, 2, 8, 9, 31, 32, 33, 64, 127, 128, 129, 200};
  const int64_t most = group_rows.back();
  const int64_t total = std::accumulate(group_rows.begin(), group_rows.end(), int64_t{0});
  const Tensor x = OnGpu(RandomMatrix(DType::kBf16, {most, sizes.hidden}, 1, -1));
  for (const int64_t format : {-1, 0, 32, 64}) {  // bf16, or integers
    std::vector<MatrixView> w;
    for (const uint64_t seed : {11U, 12U, 13U}) {
      const int64_t n = seed == 12 ? sizes.hidden : sizes.intermediate;
      const int64_t k = seed == 12 ? sizes.intermediate : sizes.hidden;
      w.push_back(format < 0 ? Keep(RandomWeights(DType::kBf16, n, k, seed))
                             : Keep(RandomIntegers(format, n, k, seed)));
    }
    const auto run = [&](const std::vector<int64_t>& rows, int64_t count) {
      std::vector<ExpertGroup> groups;
      std::vector<int32_t> sources;
      for (const int64_t r : rows) {
        groups.push_back({static_cast<int64_t>(sources.size()), r, w[0], w[1], w[2]});
        for (int32_t i = 0; i < r; ++i) sources.push_back(i);
      }
      std::vector<int32_t> places(sources.size());
      std::iota(places.begin(), places.end(), 0);
      Tensor in = gpu_->NewTensor(DType::kBf16, {count, sizes.hidden});
      Tensor mid = Poison(DType::kBf16, {count, sizes.intermediate});
      Tensor out = Poison(DType::kBf16, {count, sizes.hidden});
      EXPECT_OK(gpu_->CopyRows(x.view(), sources, in.view(), places));
      EXPECT_OK(gpu_->ExpertFfn(in.view(), groups, mid.view(), out.view()));
      return OnHost(out);
    };
    const Tensor alone = run({most}, most);
    const Tensor grouped = run(group_rows, total);
    int64_t begin = 0;
    for (const int64_t rows : group_rows) {
      ASSERT_TRUE(SameBits(grouped.view().Rows(begin, rows), alone.view().Rows(0, rows)))
          << "format " << format << ", a group of " << rows;
      begin += rows;
    }
    kept_.clear();
  }
}

TEST_F(CudaBitsTest, RepeatsOfAProductGiveTheSameBits) {
  for (const Product& product : Products(Hidden())) {
    SCOPED_TRACE(product.name);
    for (const int64_t rows : RowsUnderTest()) {
      const Tensor x = RandomRows(product, rows);
      const Tensor first = Run(product, x.view());
      for (int again = 1; again < Repeats(); ++again) {
        ASSERT_TRUE(SameBits(Run(product, x.view()).view(), first.view()))
            << "run " << again << " of " << rows << " rows";
      }
    }
  }
}

}  // namespace
}  // namespace m1
