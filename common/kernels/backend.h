// Every operation of the model, with its contract. One file per operation and backend:
// reference/<op>.cc is the plain loop and the specification, cpu/<op>.cc the fast one with the same
// bits.
//
// Rules that hold for every operation (design.md section 1):
// - Row-independent: an output row depends on its own inputs and is computed in one order of
//   operations, whatever the other rows are. Threads split output rows, heads or sequences, never a
//   reduction.
// - `act` below is the activation type, fp32 or bf16; an `act` output is rounded to nearest even
//   from an fp32 value. Weights are fp32 or bf16; bf16 is widened when it meets an fp32 operand.
// - Dot form (contiguous reduction): 16 fp32 lanes, K padded with zeros to a multiple of 32. Both
//   operands bf16: of each 32 elements lane j takes element 2j+1, then 2j, each by a fused
//   multiply-add. Otherwise: element i goes to lane i mod 16, ascending. The lanes are added by the
//   fixed tree: j + (j+8), then j + (j+4), j + (j+2), j + (j+1).
// - Column form (reduction over rows): one fp32 accumulator per output element, starting at +0,
//   fused multiply-adds. Both operands bf16: pairs (2i, 2i+1) by absolute index, 2i+1 first, then
//   2i; an index past the last row counts as zero. Otherwise ascending.
// - Quantised form (w int8 or int4, see matrix_view.h). The row x meets w as integers: with a the
//   largest |x[k]|, q[k] = x[k] * (127 / a) to the nearest integer, ties to even, and the row's
//   scale is a / 127. A row with a < 2^-100 is all zeros and has scale 0; a row that holds infinity
//   or NaN has q = 0 and the scale NaN, so that all it gives is NaN. Integer sums are exact.
//     int8: fp32(sum over k of q[k] w[n,k]) * (row scale * scales[n]).
//     int4: 16 fp32 lanes from +0, elements in steps of 64, ascending: lane j takes
//       fma(fp32(sum of q[k] w[n,k] over the four k = 4j .. 4j+3 of the step), the group's scale,
//       lane); the fixed tree adds the lanes; times the row scale.
// - exp, log, sigmoid, silu are those of exact_math.h. Subnormals are flushed to zero (FTZ and DAZ)
//   by arithmetic; copies keep them. Which NaN a NaN result is may differ.
// - Errors: InvalidArgument when shapes or dtypes disagree. Views must not overlap unless said.
// - Tensors lie in the backend's memory (NewTensor; on the CPU anywhere), spans in the host's. A
//   device may work on after a call returned, in the order of the calls; results in spans are
//   there.
// Thread-compatible: one thread calls a backend at a time; it may use more threads inside.
#pragma once

#include <cstdint>
#include <memory>
#include <span>
#include <string>

#include "absl/status/status.h"

#include "common/kernels/backend_memory.h"
#include "common/kernels/model_shape.h"
#include "common/kernels/operands.h"
#include "common/kernels/sampling.h"
#include "common/tensor/tensor.h"
#include "common/tensor/tensor_view.h"

namespace m1 {

// Bumped whenever any bit of any result changes.
inline constexpr int32_t kNumericsRevision = 2;

class KernelBackend : public BackendMemory {
 public:
  // The implementation that runs: "reference", or a target of cpu_backend.h.
  virtual std::string name() const = 0;
  // Errors: Unimplemented naming what of such a model no operation here takes, and the limit.
  virtual absl::Status CheckModel(const ModelShape&) const { return absl::OkStatus(); }

  // out[r] = table[ids[r]], widened.  table [vocab, hidden]; out fp32 [rows, hidden].
  // Errors: InvalidArgument for ids outside the table.
  virtual absl::Status Embed(std::span<const int32_t> ids, ConstTensorView table,
                             TensorView out) = 0;

  // out = weight * (x * (1 / sqrt(mean(x^2) + eps))); the sum of squares in dot form (fp32).
  // x, out fp32 [rows, n]; weight [n]. `out` may be `x`.
  virtual absl::Status RmsNorm(ConstTensorView x, ConstTensorView weight, float eps,
                               TensorView out) = 0;

  // x fp32 to out act, any equal shapes.
  virtual absl::Status Round(ConstTensorView x, TensorView out) = 0;

  // out = epilogue(x w^T) for each of the products, which may run side by side.  x act or fp32
  // [rows, K]; w [N, K]; out fp32 or act [rows, N]. Dot form: bf16 x meets bf16 w in pair order; in
  // every other combination both are widened to fp32. Integers in w: quantised form, K at most
  // kMaxQuantizedK.
  virtual absl::Status Linears(ConstTensorView x, std::span<const LinearProduct> products) = 0;
  absl::Status Linear(ConstTensorView x, const MatrixView& w, Epilogue epilogue, TensorView out) {
    const LinearProduct product{w, epilogue, out};
    return Linears(x, {&product, 1});
  }

  // out = act(silu(x gate^T) * (x up^T)).  x, out act; gate, up [N, K] of one format.
  virtual absl::Status GatedUp(ConstTensorView x, const MatrixView& gate, const MatrixView& up,
                               TensorView out) = 0;

  // For each group: mid = act(silu(x w1^T) * (x w3^T)), out = act(mid w2^T).
  // x act [rows, hidden]; mid act [rows, intermediate] is scratch; out act [rows, hidden].
  // Groups do not overlap; rows of no group are left alone. All weights of one format.
  virtual absl::Status ExpertFfn(ConstTensorView x, std::span<const ExpertGroup> groups,
                                 TensorView mid, TensorView out) = 0;

  // out = fma(beta, y, alpha * x).  fp32, equal shapes; `out` may be `x` or `y`.
  virtual absl::Status ScaledAdd(float alpha, ConstTensorView x, float beta, ConstTensorView y,
                                 TensorView out) = 0;

  // out = act(sigmoid(gate) * x).  gate, x fp32 [rows, n]; out act [rows, n].
  virtual absl::Status SigmoidMul(ConstTensorView gate, ConstTensorView x, TensorView out) = 0;

  // Softmax over the experts (max subtracted, exp, sum in ascending order), the k largest (ties to
  // the lower id), heaviest first, divided by their sum (added in that order).
  // logits fp32 [rows, experts]; ids int32 [rows, k]; weights fp32 [rows, k].
  virtual absl::Status TopKGate(ConstTensorView logits, TensorView ids, TensorView weights) = 0;

  // out[r] = fma(w[r,k-1], y[r,k-1], ... fma(w[r,1], y[r,1], w[r,0] * y[r,0])).
  // y act [rows, k, hidden]; weights fp32 [rows, k]; out fp32 [rows, hidden].
  virtual absl::Status CombineExperts(ConstTensorView y, ConstTensorView weights,
                                      TensorView out) = 0;

  // c = sigmoid(coefficient_logit[r]); out = fma(shared, c, moe * (1 - c)).
  // moe, shared, out fp32 [rows, hidden]; coefficient_logit fp32 [rows, 1]. `out` may be `moe`.
  virtual absl::Status SharedExpertMix(ConstTensorView moe, ConstTensorView shared,
                                       ConstTensorView coefficient_logit, TensorView out) = 0;

  // Rotates the first 2 * half dims of every head in the half-rotation layout, copies the rest:
  // with a = x[i], b = x[i + half]
  //   out[i] = fma(-b, sin[i], a * cos[i]),  out[i + half] = fma(a, sin[i], b * cos[i]).
  // x fp32 [rows, heads, head_dim]; cos, sin fp32 [rows, half]; out act [rows, heads, head_dim].
  virtual absl::Status Rotary(ConstTensorView x, ConstTensorView cos, ConstTensorView sin,
                              TensorView out) = 0;

  // Writes rows of k and v into the sequences' KV blocks.  k, v act [rows, num_kv_heads, head_dim].
  virtual absl::Status AppendKv(ConstTensorView k, ConstTensorView v,
                                std::span<const PagedSequence> sequences, const KvPool& pool) = 0;

  // Causal attention over the pool, which already holds the rows' own keys. Query head h reads kv
  // head h / (num_heads / num_kv_heads). Per row and head, with scale = 1 / sqrt(head_dim) in fp32:
  //   keys in blocks of 64 from position 0, within segments of 1024 that start from scratch
  //   (m = -inf, l = 0, o = 0):
  //     s_b = scale * (q . k_b) (dot form); m' = max(m, max s_b over keys <= the row's position);
  //     c = exp(m - m') (0 for m = -inf); p_b = exp(s_b - m'), 0 for masked keys;
  //     l = fma(l, c, sum of p_b: lane b mod 16 ascending by plain adds, then the fixed tree);
  //     o = o * c, then o += act(p_b) * v_b in column form over all 64 keys (by absolute index;
  //     v_b of masked keys counts as zero).
  //   segments merge in order into (M, L, O), which starts as the first segment's:
  //     m' = max(M, m); a = exp(M - m'), b = exp(m - m');
  //     L = fma(l, b, L * a); O = fma(o, b, O * a).
  //   out = act(O / L).
  // q act [rows, num_heads, head_dim]; out act [rows, num_heads, head_dim].
  virtual absl::Status SoftmaxAttention(ConstTensorView q, std::span<const PagedSequence> sequences,
                                        const KvPool& pool, TensorView out) = 0;

  // Lightning attention with the state folded at grid lines only. For a row at position t, with
  // i = t mod 32 and s = decays[head]: its k and v are stored at row i of the open chunk;
  //   inter[e] = sum over c of q[c] * S[c, e] (column form, ascending; q widened);
  //   w_b = act(exp(-s * (i - b)) * (q . k_b)) for b <= i (q.k in dot form; i - b as fp32);
  //   intra[e] = sum over b <= i of w_b * v_b[e] (column form by index in the chunk);
  //   out[e] = fma(exp(-s * (i + 1)), inter[e], intra[e]).
  // When row 31 was written:
  //   k'_b = act(k_b * exp(-s * (31 - b)));
  //   fold[c, e] = sum over b of k'_b[c] * v_b[e] (column form);
  //   S[c, e] = fma(S[c, e], exp(-s * 32), fold[c, e]).
  // qkv act [rows, num_heads, 3, head_dim] after silu; decays fp32 [num_heads];
  // out fp32 [rows, num_heads, head_dim].
  virtual absl::Status LightningAttention(ConstTensorView qkv, ConstTensorView decays,
                                          std::span<const LightningSequence> sequences,
                                          TensorView out) = 0;

  // lse[r] = log(sum over v of exp(logits[r, v] / temperature[r])): the maximum m of the quotients
  // is subtracted, the sum runs in 16 lanes (v mod 16, ascending, plain adds) and the fixed tree,
  // lse = m + log(sum). NaN where a logit is not finite.
  // logits fp32 [rows, vocab]; temperatures [rows] (> 0); lse [rows].
  virtual absl::Status LogSumExp(ConstTensorView logits, std::span<const float> temperatures,
                                 std::span<float> lse) = 0;

  // ids[i] is the token that draws[i] draws; sampling.h says which.  logits fp32 [rows, vocab],
  // finite, and so are their quotients by the temperatures; changed while the call runs only.
  // Errors: InvalidArgument for rows and ids that do not exist, for two draws from one row.
  virtual absl::Status DrawTokens(TensorView logits, std::span<const TokenDraw> draws,
                                  std::span<int32_t> ids) = 0;

  // scores[i] is what sampling.h says of requests[i].  logits fp32 [rows, vocab], finite.
  // Errors: InvalidArgument for rows and ids that do not exist.
  virtual absl::Status ScoreTokens(ConstTensorView logits, std::span<const ScoreRequest> requests,
                                   std::span<TokenScore> scores) = 0;
};

// The plain loops, one thread.
std::unique_ptr<KernelBackend> CreateReferenceBackend();

}  // namespace m1
