// The two ends of the expert exchange, without a transport. The attention worker holds an
// ExpertExchange; an expert worker offers an ExpertExecutor. Transports: inproc_exchange.h here,
// gRPC, shared memory and device links in common/rpc/remote_exchange.h.
#pragma once

#include <cstdint>
#include <span>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/time/time.h"

#include "common/tensor/tensor_view.h"

namespace m1 {

// So many batches may be in flight at once, one in each lane.
inline constexpr int32_t kExchangeLanes = 2;

// A batch of a device's memory, of which DispatchBatch::rows and out are copies in the host's: for
// exchanges that carry rows from device to device. Called on the thread that calls the exchange.
class DeviceBatch {
 public:
  virtual ~DeviceBatch() = default;
  // Of the shapes of DispatchBatch.
  virtual ConstTensorView rows() const = 0;
  virtual TensorView out() const = 0;
  // Fills DispatchBatch::rows, which hold nothing before; a second call does nothing.
  virtual absl::Status FetchRows() = 0;
  // These rows of out, as row * experts_per_row + place in gate order, are in the device's memory;
  // others come into DispatchBatch::out.
  virtual void OnDeviceRows(std::span<const int32_t> out_indices) = 0;
};

// Rows of one layer with their routing. The views must live until Combine of its lane returned.
struct DispatchBatch {
  int32_t lane = 0;  // in [0, kExchangeLanes)
  int32_t layer = 0;
  int32_t experts_per_row = 0;
  ConstTensorView rows;                 // act [num_rows, hidden]
  std::span<const int32_t> expert_ids;  // [num_rows * experts_per_row], gate order
  TensorView out;  // act [num_rows, experts_per_row, hidden]: unweighted expert outputs
  DeviceBatch* device = nullptr;  // not null: the originals of rows and out; FetchRows fills rows
};

// What one peer hosts and how it fares, for GetTopology and logs.
struct ExpertPeer {
  // As configured or resolved; without "shm:" or "nccl:" while it is reached by gRPC instead.
  std::string address;
  bool connected = false;
  std::vector<int32_t> experts;  // sorted; empty until it was first reached
  std::string last_error;        // why it is not connected, or what did not fit
  bool mismatched = false;       // it is not: its identity differs
  int64_t sent_bytes = 0;        // of dispatches, since the start
  int64_t received_bytes = 0;    // of answers
};

// Told of each peer's answer; must not wait.
class ExchangeObserver {
 public:
  virtual ~ExchangeObserver() = default;
  // `latency`: from the dispatch to its answer. `address`: of the peer.
  virtual void OnAnswer(const std::string& address, absl::Duration latency) = 0;
};

// Attention side. One thread calls Dispatch and Combine, for each lane in turn; the rest is
// thread-safe.
class ExpertExchange {
 public:
  virtual ~ExpertExchange() = default;

  // Sends the rows to the hosts of their experts. Errors: InvalidArgument for ids without meaning.
  virtual absl::Status Dispatch(const DispatchBatch& batch) = 0;
  // Waits until `out` of the lane's last Dispatch is complete. A lost peer gets the same rows again
  // once it (or another host of the expert) is back. Errors: Unavailable naming the experts that
  // had no host for the loss timeout, Cancelled after Shutdown, InvalidArgument/Internal as a peer
  // answered. After an error `out` is undefined.
  virtual absl::Status Combine(int32_t lane) = 0;

  // Experts without a connected host, sorted; empty when every expert can be reached.
  virtual std::vector<int32_t> MissingExperts() const = 0;
  virtual std::vector<ExpertPeer> Peers() const = 0;
  // Ends waits from another thread.
  virtual void Shutdown() = 0;
};

// A row of a job and the expert it goes through.
struct RowExpert {
  int32_t row = 0;
  int32_t expert = 0;
};

struct ExpertJob {
  int32_t layer = 0;
  ConstTensorView rows;              // act [num_rows, hidden]
  std::span<const RowExpert> pairs;  // any order, any multiplicity
  // out[i] belongs to pairs[i], or out[out_rows[i]] where there are out_rows.
  TensorView out;  // act [pairs.size(), hidden]; with out_rows at least the rows that they name
  std::span<const int32_t> out_rows = {};
  // rows and out lie in the memory in which the experts compute, where that is not the host's.
  bool is_on_device = false;

  int32_t out_row(size_t pair) const {
    return out_rows.empty() ? static_cast<int32_t>(pair) : out_rows[pair];
  }
};

// Expert side. Thread-compatible.
class ExpertExecutor {
 public:
  virtual ~ExpertExecutor() = default;
  virtual const std::vector<int32_t>& hosted_experts() const = 0;
  // Runs jobs of one layer together, rows grouped by expert. Jobs are validated by the caller
  // against ValidateJob.
  virtual absl::Status Execute(std::span<const ExpertJob> jobs) = 0;
  // InvalidArgument naming what is wrong: layer, hidden size, dtype, row or expert out of range,
  // expert not hosted.
  virtual absl::Status ValidateJob(const ExpertJob& job) const = 0;
};

}  // namespace m1
