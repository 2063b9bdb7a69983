// Between the dispatcher and the stream to one worker.
#pragma once

#include "absl/status/status.h"

#include "router/worker_protocol.h"

namespace m1 {

// Takes commands for one worker. Thread-safe; never blocks, never calls the listener from inside.
class WorkerLink {
 public:
  virtual ~WorkerLink() = default;
  // Dropped when the stream is not open.
  virtual void Send(WorkerCommand command) = 0;
};

// Hears of one worker, from one thread at a time: OnWelcome, then any number of OnStep, then
// OnLost. An attempt that comes to nothing is an OnLost alone.
class WorkerListener {
 public:
  virtual ~WorkerListener() = default;
  // An error refuses the worker: its stream is closed and tried again later.
  virtual absl::Status OnWelcome(int worker_index, const WorkerWelcome& welcome) = 0;
  virtual void OnStep(int worker_index, WorkerEvents events) = 0;
  virtual void OnLost(int worker_index, const absl::Status& status) = 0;
};

}  // namespace m1
