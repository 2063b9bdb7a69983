#include <cstring>
#include <string>
#include <utility>

#include "absl/strings/str_cat.h"

#include "common/base/check.h"
#include "common/base/log.h"
#include "common/base/status_macros.h"
#include "common/kernels/cuda/cuda_kernel_backend.h"
#include "common/kernels/cuda/device_views.h"
#include "common/kernels/cuda_backend.h"
#include "common/kernels/validate.h"

namespace m1 {

absl::StatusOr<std::unique_ptr<KernelBackend>> CreateCudaBackend(DeviceFaultHandler on_fault) {
  cuda::Stream stream = nullptr;
  if (const cuda::LaunchError error = cuda::OpenStream(&stream); error != 0) {
    return absl::InternalError(absl::StrCat("GPU: ", cuda::ErrorName(error)));
  }
  return std::make_unique<cuda::CudaKernelBackend>(stream, std::move(on_fault));
}

CUstream_st* StreamOf(const KernelBackend& backend) {
  M1_CHECK(backend.device_kind() == DeviceKind::kCuda);
  return static_cast<const cuda::CudaKernelBackend&>(backend).stream();
}

namespace cuda {
namespace {

size_t Bytes(ConstTensorView view) { return static_cast<size_t>(view.num_bytes()); }

// The widest words that rows of so many bytes at these addresses are made of.
int WordBytes(ConstTensorView x, ConstTensorView out, int64_t row_bytes) {
  const auto bits = reinterpret_cast<uintptr_t>(x.data()) |
                    reinterpret_cast<uintptr_t>(out.data()) | static_cast<uintptr_t>(row_bytes);
  return bits % 16 == 0 ? 16 : bits % 4 == 0 ? 4 : 1;
}

}  // namespace

CudaKernelBackend::~CudaKernelBackend() {
  static_cast<void>(Synchronize(queue_.stream()));  // its buffers are freed next
  CloseStream(queue_.stream());
}

Tensor CudaKernelBackend::NewTensor(DType dtype, const Shape& shape) {
  const auto bytes = static_cast<size_t>(shape.num_elements() * DTypeBytes(dtype));
  if (bytes == 0) return {dtype, shape, nullptr, nullptr, nullptr};
  void* data = nullptr;
  const absl::Status status = ToStatus(AllocateDevice(bytes, &data), "memory of the device");
  M1_CHECK_MSG(status.ok(), std::string(status.message()));
  const auto free = [](void* memory, void* queue) {
    static_cast<DeviceQueue*>(queue)->Free(memory);
  };
  return {dtype, shape, data, free, &queue_};
}

int64_t CudaKernelBackend::AvailableBytes() const {
  size_t bytes = 0;
  return AvailableDeviceBytes(&bytes) == 0 ? static_cast<int64_t>(bytes) : 0;
}

absl::Status CudaKernelBackend::Upload(ConstTensorView x, TensorView out) {
  M1_RETURN_IF_ERROR(ValidateTransfer(x, out));
  if (Bytes(x) == 0) return absl::OkStatus();
  return queue_.CopyToDevice(out.data(), x.data(), Bytes(x));
}

absl::Status CudaKernelBackend::Download(ConstTensorView x, TensorView out) {
  M1_RETURN_IF_ERROR(ValidateTransfer(x, out));
  if (Bytes(x) == 0) return absl::OkStatus();
  return queue_.CopyToHost(out.data(), x.data(), Bytes(x));
}

absl::Status CudaKernelBackend::Zero(TensorView out) {
  if (Bytes(out) == 0) return absl::OkStatus();
  M1_RETURN_IF_ERROR(queue_.Submit());
  return ToStatus(FillZero(out.data(), Bytes(out), queue_.stream()), "zero");
}

void CudaKernelBackend::LogPageable(LaunchError error, int64_t bytes) {
  if (is_pageable_logged_.exchange(true)) return;
  M1_LOG(kWarning) << "event=not_pinned bytes=" << bytes << " error=" << ErrorName(error)
                   << " copies of such memory take a detour";
}

Tensor CudaKernelBackend::NewHostTensor(DType dtype, const Shape& shape) {
  const int64_t bytes = shape.num_elements() * DTypeBytes(dtype);
  void* data = nullptr;
  if (bytes == 0) return {dtype, shape};
  if (const LaunchError error = AllocatePinned(static_cast<size_t>(bytes), &data); error != 0) {
    LogPageable(error, bytes);
    return {dtype, shape};
  }
  std::memset(data, 0, static_cast<size_t>(bytes));
  return {dtype, shape, data, [](void* memory, void*) { FreePinned(memory); }, nullptr};
}

bool CudaKernelBackend::PinHost(void* data, int64_t bytes) {
  const LaunchError error = RegisterPinned(data, static_cast<size_t>(bytes));
  if (error != 0) LogPageable(error, bytes);
  return error == 0;
}

void CudaKernelBackend::UnpinHost(void* data) { UnregisterPinned(data); }

absl::Status CudaKernelBackend::CopyRows(ConstTensorView x, std::span<const int32_t> x_rows,
                                         TensorView out, std::span<const int32_t> out_rows) {
  M1_RETURN_IF_ERROR(ValidateCopyRows(x, x_rows, out, out_rows));
  if (x_rows.empty() || x.num_bytes() == 0) return absl::OkStatus();
  const int64_t row_bytes = x.num_bytes() / x.dim(0);
  const int word_bytes = WordBytes(x, out, row_bytes);
  M1_ASSIGN_OR_RETURN(const auto rows, queue_.Put(x_rows, out_rows));
  const CopyRowsArgs args{.x = x.data(),
                          .x_rows = std::get<0>(rows),
                          .out = out.data(),
                          .out_rows = std::get<1>(rows),
                          .rows = Int(static_cast<int64_t>(x_rows.size())),
                          .row_words = row_bytes / word_bytes};
  return ToStatus(LaunchCopyRows(args, word_bytes, queue_.target()), "copy_rows");
}

}  // namespace cuda
}  // namespace m1
