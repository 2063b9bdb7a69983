#include "absl/strings/str_cat.h"

#include "common/base/status_macros.h"
#include "common/kernels/validate.h"

namespace m1 {
namespace {

absl::string_view FormatName(MatrixFormat format) {
  switch (format) {
    case MatrixFormat::kPlain:
      return "fp32 or bf16";
    case MatrixFormat::kInt8:
      return "int8";
    case MatrixFormat::kInt4:
      return "int4";
  }
  return "unknown";
}

absl::Status CheckScales(absl::string_view what, ConstTensorView scales, DType dtype,
                         const Shape& shape) {
  const std::string name = absl::StrCat(what, ": scales");
  M1_RETURN_IF_ERROR(CheckDType(name, scales, dtype));
  return CheckShape(name, scales, shape);
}

}  // namespace

absl::Status CheckMatrix(absl::string_view what, const MatrixView& matrix, const Shape& shape) {
  if (!matrix.is_quantized()) {
    M1_RETURN_IF_ERROR(CheckAct(what, matrix.values));
    return CheckShape(what, matrix.values, shape);
  }
  M1_RETURN_IF_ERROR(CheckRank(what, matrix.values, 2));
  if (!(matrix.shape() == shape)) {
    return absl::InvalidArgumentError(absl::StrCat(what, " has shape ", matrix.shape().ToString(),
                                                   ", wanted ", shape.ToString()));
  }
  if (shape[1] > kMaxQuantizedK) {
    return absl::InvalidArgumentError(absl::StrCat(
        what, " has rows of ", shape[1], " elements, limit ", kMaxQuantizedK, " for integers"));
  }
  if (matrix.format() == MatrixFormat::kInt8) {
    return CheckScales(what, matrix.scales, DType::kF32, {shape[0]});
  }
  const int64_t group = shape[1] == 0 ? 32 : matrix.group_size();
  if ((group != 32 && group != 64) || shape[1] % group != 0) {
    return absl::InvalidArgumentError(
        absl::StrCat(what, " has scales of shape ", matrix.scales.shape().ToString(), " for ",
                     shape.ToString(), " elements, wanted one for each 32 or 64 of a row"));
  }
  return CheckScales(what, matrix.scales, DType::kBf16, {shape[0], shape[1] / group});
}

absl::Status CheckSameFormat(absl::string_view what, const MatrixView& matrix,
                             const MatrixView& other) {
  if (matrix.format() == other.format()) return absl::OkStatus();
  return absl::InvalidArgumentError(absl::StrCat(what, " is ", FormatName(matrix.format()),
                                                 ", wanted ", FormatName(other.format()),
                                                 " like the others"));
}

}  // namespace m1
