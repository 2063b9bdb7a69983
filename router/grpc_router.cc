#include "router/grpc_router.h"

#include <utility>

#include "absl/strings/str_cat.h"
#include "absl/time/clock.h"

#include "common/base/log.h"
#include "common/base/status_macros.h"
#include "common/base/thread_name.h"

namespace m1 {
namespace {

// Two long prompts are encoded at once; what waits behind them is bounded by its count, and by
// max_message_bytes each.
constexpr int kPoolThreads = 2;
constexpr size_t kPoolQueueSize = 64;
constexpr absl::Duration kTickPeriod = absl::Milliseconds(100);

}  // namespace

Router::Router(const RouterOptions& options, std::unique_ptr<Vocabulary> vocabulary,
               RouterSurroundings surroundings)
    : options_(options),
      vocabulary_(std::move(vocabulary)),
      surroundings_(std::move(surroundings)),
      pool_(kPoolThreads, kPoolQueueSize),
      heartbeat_(surroundings_.watchdog == nullptr ? nullptr
                                                   : surroundings_.watchdog->Add("scheduler")) {
  const SchedulerOptions scheduler_options{.pieces = vocabulary_.get(),
                                           .queue_size = options.queue_size,
                                           .priority_ageing = options.priority_ageing,
                                           .worker_loss_timeout = options.worker_loss_timeout};
  dispatcher_ = std::make_unique<Dispatcher>(scheduler_options, &clock_, [this](bool is_ready) {
    MutexLock lock(&server_mutex_);
    is_serving_ = is_ready;
    if (reported_server_ != nullptr) reported_server_->SetServing(is_ready);
  });
  fleet_ = std::make_unique<WorkerFleet>(
      WorkerFleetOptions{.addresses = options.attention_workers,
                         .router_id = absl::StrCat(options.address, ":", options.port),
                         .security = surroundings_.security},
      dispatcher_.get());
}

Router::~Router() {
  dispatcher_->StopAdmission();
  dispatcher_->FailAll(absl::UnavailableError("the router ends"));
  {
    MutexLock lock(&tick_mutex_);
    is_stopped_ = true;
    tick_stop_.SignalAll();
  }
  if (ticker_.joinable()) ticker_.join();
  {
    MutexLock lock(&server_mutex_);
    reported_server_ = nullptr;
  }
  if (server_ != nullptr) server_->Shutdown(absl::Seconds(1));
  pool_.Stop();  // its tasks use the dispatcher
  fleet_.reset();
}

absl::Status Router::Serve(const std::vector<grpc::Service*>& services) {
  const ServerOptions server_options{.address = options_.address,
                                     .port = options_.port,
                                     .max_receive_message_bytes = options_.max_message_bytes,
                                     .on_serving = surroundings_.on_serving,
                                     .security = surroundings_.security,
                                     .metrics = surroundings_.metrics,
                                     .watchdog = surroundings_.watchdog};
  M1_ASSIGN_OR_RETURN(server_, ServerRunner::Start(server_options, services));
  {
    MutexLock lock(&server_mutex_);
    reported_server_ = server_.get();
    server_->SetServing(is_serving_);
  }
  fleet_->Start();
  ticker_ = std::thread([this] { Tick(); });
  return absl::OkStatus();
}

void Router::Stop() {
  dispatcher_->StopAdmission();
  const absl::Time deadline = absl::Now() + options_.drain_timeout;
  M1_LOG(kInfo) << "event=draining in_flight=" << registry_.size();
  if (const size_t open = registry_.WaitUntilEmpty(deadline); open > 0) {
    M1_LOG(kWarning) << "event=drain_timeout in_flight=" << open;
  }
}

void Router::Tick() {
  NameThread("scheduler-tick");
  MutexLock lock(&tick_mutex_);
  while (!is_stopped_) {
    tick_mutex_.Unlock();
    if (heartbeat_ != nullptr) heartbeat_->Beat();
    dispatcher_->Tick();
    registry_.CheckReaders(clock_.Now());
    tick_mutex_.Lock();
    if (!is_stopped_) tick_stop_.WaitUntil(&tick_mutex_, absl::Now() + kTickPeriod);
  }
  if (heartbeat_ != nullptr) heartbeat_->Rest();
}

}  // namespace m1
