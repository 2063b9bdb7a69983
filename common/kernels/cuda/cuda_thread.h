// The GPU as one thread of a kernel sees it: see portable.h for what each call does. Only .cu files
// include this.
#pragma once

#include <cuda_runtime.h>

#include <cstdint>

#include "common/kernels/cuda/portable.h"

namespace m1::cuda {

class CudaThread {
 public:
  // `shared`: the block's dynamic shared memory.
  __device__ __forceinline__ explicit CudaThread(unsigned char* shared)
      : shared_(shared), shared_address_(static_cast<uint32_t>(__cvta_generic_to_shared(shared))) {}

  __device__ __forceinline__ int index() const { return static_cast<int>(threadIdx.x); }
  __device__ __forceinline__ int lane() const { return index() % kWarpLanes; }
  __device__ __forceinline__ int warp() const { return index() / kWarpLanes; }
  __device__ __forceinline__ BlockIndex block() const {
    return {static_cast<int>(blockIdx.x), static_cast<int>(blockIdx.y),
            static_cast<int>(blockIdx.z)};
  }

  template <typename T>
  __device__ __forceinline__ T Load(const T* from) const {
    return *from;
  }
  template <typename T>
  __device__ __forceinline__ void Store(T* to, T value) const {
    *to = value;
  }
  template <typename T>
  __device__ __forceinline__ T LoadShared(int offset) const {
    return *reinterpret_cast<const T*>(shared_ + offset);
  }
  template <typename T>
  __device__ __forceinline__ void StoreShared(int offset, T value) const {
    *reinterpret_cast<T*>(shared_ + offset) = value;
  }

  template <typename T>
  __device__ __forceinline__ void StoreSharedIf(bool condition, int offset, T value) const {
    if (condition) StoreShared(offset, value);
  }

  __device__ __forceinline__ void CopyAsync16(int offset, const void* from, bool valid) const {
    asm volatile("cp.async.cg.shared.global [%0], [%1], 16, %2;\n" ::"r"(Address(offset)),
                 "l"(__cvta_generic_to_global(from)), "r"(valid ? 16 : 0)
                 : "memory");
  }
  __device__ __forceinline__ void CopyAsync8(int offset, const void* from, bool valid) const {
    asm volatile("cp.async.ca.shared.global [%0], [%1], 8, %2;\n" ::"r"(Address(offset)),
                 "l"(__cvta_generic_to_global(from)), "r"(valid ? 8 : 0)
                 : "memory");
  }
  __device__ __forceinline__ void CommitCopies() const {
    asm volatile("cp.async.commit_group;\n" ::: "memory");
  }
  template <int kPending>
  __device__ __forceinline__ void WaitCopies() const {
    asm volatile("cp.async.wait_group %0;\n" ::"n"(kPending) : "memory");
  }
  __device__ __forceinline__ void Barrier() const { __syncthreads(); }

  __device__ __forceinline__ Words4 LoadMatrices(int offset) const {
    Words4 m;
    asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0, %1, %2, %3}, [%4];\n"
                 : "=r"(m.word[0]), "=r"(m.word[1]), "=r"(m.word[2]), "=r"(m.word[3])
                 : "r"(Address(offset))
                 : "memory");
    return m;
  }
  __device__ __forceinline__ Words4 LoadMatricesTransposed(int offset) const {
    Words4 m;
    asm volatile("ldmatrix.sync.aligned.m8n8.x4.trans.shared.b16 {%0, %1, %2, %3}, [%4];\n"
                 : "=r"(m.word[0]), "=r"(m.word[1]), "=r"(m.word[2]), "=r"(m.word[3])
                 : "r"(Address(offset))
                 : "memory");
    return m;
  }
  __device__ __forceinline__ uint32_t TransposeMatrix(uint32_t word) const {
    uint32_t out;
    asm volatile("movmatrix.sync.aligned.m8n8.trans.b16 %0, %1;\n" : "=r"(out) : "r"(word));
    return out;
  }
  __device__ __forceinline__ void Mma(float (&d)[4], const Words4& a, uint32_t b0,
                                      uint32_t b1) const {
    asm volatile(
        "mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 "
        "{%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, {%0, %1, %2, %3};\n"
        : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3])
        : "r"(a.word[0]), "r"(a.word[1]), "r"(a.word[2]), "r"(a.word[3]), "r"(b0), "r"(b1));
  }
  __device__ __forceinline__ void MmaInt8(int32_t (&d)[4], const int32_t (&c)[4], const Words4& a,
                                          uint32_t b0, uint32_t b1) const {
    asm volatile(
        "mma.sync.aligned.m16n8k32.row.col.s32.s8.s8.s32 "
        "{%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, {%10, %11, %12, %13};\n"
        : "=r"(d[0]), "=r"(d[1]), "=r"(d[2]), "=r"(d[3])
        : "r"(a.word[0]), "r"(a.word[1]), "r"(a.word[2]), "r"(a.word[3]), "r"(b0), "r"(b1),
          "r"(c[0]), "r"(c[1]), "r"(c[2]), "r"(c[3]));
  }

  template <typename T>
  __device__ __forceinline__ T Shuffle(T value, int from_lane) const {
    return __shfl_sync(kAllLanes, value, from_lane);
  }
  template <typename T>
  __device__ __forceinline__ T ShuffleXor(T value, int mask) const {
    return __shfl_xor_sync(kAllLanes, value, mask);
  }

 private:
  static constexpr unsigned kAllLanes = 0xffffffffU;

  __device__ __forceinline__ uint32_t Address(int offset) const {
    return shared_address_ + static_cast<uint32_t>(offset);
  }

  unsigned char* const shared_;
  const uint32_t shared_address_;
};

}  // namespace m1::cuda
