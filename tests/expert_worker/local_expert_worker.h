// A whole expert worker on loopback inside the test's process, with random weights and the
// reference backend.
#pragma once

#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "common/base/check.h"
#include "expert_worker/engine.h"
#include "expert_worker/exchange_service.h"
#include "expert_worker/shm_source.h"
#include "tests/expert_worker/random_experts.h"
#include "tests/expert_worker/served_engine.h"

namespace m1 {

inline WorkerIdentity TestIdentity(DType dtype) {
  return {"test",
          std::string(DTypeName(dtype)),
          std::string(DTypeName(dtype)),
          "cpu",
          kNumericsRevision,
          kProtocolRevision};
}

class LocalExpertWorker {
 public:
  struct Options {
    DType dtype = DType::kF32;
    std::vector<int32_t> experts;
    int port = 0;
    int32_t max_rows = 2048;
    size_t max_queued_jobs = 256;
    bool shared_memory = true;
    std::string activation_dtype;  // in the identity, when it is to differ
  };

  LocalExpertWorker(const RandomExperts& weights, const Options& options)
      : experts_(weights, options.experts, options.dtype),
        source_(SourceOf(weights, options, &experts_.executor)),
        engine_(&experts_.executor, EngineOptionsOf(options), source_.get()),
        service_(ServiceOptionsOf(weights, options, source_.get()), &experts_.executor, &engine_),
        served_(&engine_, &service_, options.port) {}

  int port() const { return served_.port(); }
  const std::string& address() const { return served_.address(); }
  // As a process that is stopped: it takes nothing more and answers nothing more.
  void StopEngine() { engine_.Stop(); }
  EngineStats stats() const { return engine_.stats(); }
  ServerRunner& runner() { return served_.runner(); }
  ShmSource* source() { return source_.get(); }
  void Drain() {
    if (source_ != nullptr) source_->Drain();
    service_.Drain();
  }

 private:
  static EngineOptions EngineOptionsOf(const Options& options) {
    EngineOptions engine;
    engine.max_queued_jobs = options.max_queued_jobs;
    return engine;
  }
  static DispatchLimits LimitsOf(const RandomExperts& weights, const Options& options) {
    return {.shape = weights.shape(), .max_rows = options.max_rows};
  }
  static std::unique_ptr<ShmSource> SourceOf(const RandomExperts& weights, const Options& options,
                                             const ExpertExecutor* executor) {
    if (!options.shared_memory) return nullptr;
    auto source = ShmSource::Create(LimitsOf(weights, options), executor);
    M1_CHECK(source.ok());
    return *std::move(source);
  }
  static ExchangeServiceOptions ServiceOptionsOf(const RandomExperts& weights,
                                                 const Options& options, const ShmSource* source) {
    ExchangeServiceOptions service;
    service.identity = TestIdentity(options.dtype);
    if (!options.activation_dtype.empty()) {
      service.identity.activation_dtype = options.activation_dtype;
    }
    service.limits = LimitsOf(weights, options);
    if (source != nullptr) service.shared_memory = source->offer();
    return service;
  }

  LocalExperts experts_;
  std::unique_ptr<ShmSource> source_;
  Engine engine_;
  ExchangeService service_;
  ServedEngine served_;
};

}  // namespace m1
