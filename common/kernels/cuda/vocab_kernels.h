// The vocabulary kernels' bodies as types, so that one launch serves them all.
#pragma once

#include "common/kernels/cuda/portable.h"
#include "common/kernels/cuda/vocab_args.h"
#include "common/kernels/cuda/vocab_draw.h"
#include "common/kernels/cuda/vocab_log_sum_exp.h"
#include "common/kernels/cuda/vocab_score.h"

namespace m1::cuda {

struct LogSumExp {
  using Args = LogSumExpArgs;
  template <typename Thread>
  M1_DEVICE static void Run(Thread& thread, const Args& args) {
    LogSumExpBody<Thread>(thread, args).Run();
  }
};
struct Draw {
  using Args = DrawArgs;
  template <typename Thread>
  M1_DEVICE static void Run(Thread& thread, const Args& args) {
    DrawBody<Thread>(thread, args).Run();
  }
};
struct Score {
  using Args = ScoreArgs;
  template <typename Thread>
  M1_DEVICE static void Run(Thread& thread, const Args& args) {
    ScoreBody<Thread>(thread, args).Run();
  }
};

}  // namespace m1::cuda
