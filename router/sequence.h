// One sample of a request while the router answers it: what was asked, what was answered, where it
// runs.
#pragma once

#include <cstdint>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/time/time.h"

#include "router/request.h"
#include "router/sample_group.h"
#include "router/thinking_budget.h"
#include "router/work_queue.h"
#include "router/worker_protocol.h"

namespace m1 {

enum class SinkState {
  kTakesMore,
  kIsFull,      // the sequence is freed until Scheduler::Resume
  kIsComplete,  // the answer is over: OnFinished with kStopString is next
};

// Who gets the answer. Calls come in order and one at a time, never after one of the last two.
// Implementations must not call the scheduler from inside.
class SequenceSink {
 public:
  virtual ~SequenceSink() = default;

  // A worker is about to be asked. kIsFull: it is not, the sequence is parked until Resume.
  virtual SinkState OnStarting() { return SinkState::kTakesMore; }
  // A worker was found for the first time.
  virtual void OnStarted(absl::Time now) = 0;
  virtual SinkState OnPromptTokens(int32_t first_index, std::vector<AnswerToken> tokens) = 0;
  virtual SinkState OnTokens(std::vector<AnswerToken> tokens, absl::Time now) = 0;
  // The answer is complete. kCancelled: somebody aborted it.
  virtual void OnFinished(AnswerEnd end, int32_t stop_token_id, absl::Time now) = 0;
  // The answer cannot be completed.
  virtual void OnFailed(const absl::Status& status) = 0;
};

// All that another worker needs beside the request to go on where one stopped.
struct ResumePoint {
  std::vector<int32_t> emitted_ids;
  int32_t next_prompt_logprob_index = 0;
  int32_t repetition_run = 0;  // consecutive tokens so far that count for the request's rule
};

enum class SequenceState {
  kQueued,   // waits for a worker
  kRunning,  // on a worker
  kParked,   // its reader is slow; waits for Resume, on no worker
};

struct RoutedSequence {
  int64_t arrival_order = 0;  // its id in the router
  int sample_index = 0;
  std::shared_ptr<const GenerationRequest> request;  // of all samples, and of their call
  std::shared_ptr<SampleGroup> group;                // of all samples
  // Owned together with the call that reads the answer: either may end first.
  std::shared_ptr<SequenceSink> sink;

  SequenceState state = SequenceState::kQueued;
  ResumePoint resume;
  std::optional<ThinkingBudget> thinking;  // absent: thoughts are not bounded
  bool was_started = false;
  int32_t max_new_tokens = 0;             // bounded by the context, fixed at the first start
  std::optional<FleetIdentity> identity;  // of the worker that gave the first output
  int32_t losses_in_a_row = 0;            // workers lost since the last output

  absl::Time arrival_time;
  absl::Time unserved_since;  // kQueued: since when no eligible worker has been ready

  int worker_index = -1;                 // kRunning
  int64_t worker_sequence_id = 0;        // kRunning
  int64_t outstanding_tokens = 0;        // kRunning: its share of the worker's
  int32_t pause_at_generated_count = 0;  // kRunning: where the worker waits for word; 0: nowhere
  bool is_being_preempted = false;       // kRunning: the worker was asked to drop it
  bool shares_prompt = false;            // kRunning: it was started as one of its group

  int64_t num_tokens() const {
    return static_cast<int64_t>(request->prompt_ids.size() + resume.emitted_ids.size());
  }
  int64_t num_generated() const {
    return request->generated_prompt_token_count + static_cast<int64_t>(resume.emitted_ids.size());
  }
  Ticket ticket() const {
    return {.arrival_order = arrival_order,
            .arrival_time = arrival_time,
            .priority = request->priority,
            .client = request->client,
            .request = group->id};
  }
  // Tokens that may still come.
  int64_t num_remaining() const { return max_new_tokens - num_generated(); }
  // Whether a worker can begin it at the end of the shared tokens: none of them is to be scored.
  bool can_begin_shared() const {
    return !request->prompt_logprobs || sample_index > 0 ||
           resume.next_prompt_logprob_index > NumSharedTokens(*request);
  }
  // Tokens that a worker knows of as soon as it is started.
  int64_t num_start_tokens() const {
    return num_tokens() + (thinking ? static_cast<int64_t>(thinking->ids_to_feed().size()) : 0);
  }
};

// What starts the sequence, or takes it over, on any worker.
StartCommand MakeStartCommand(const RoutedSequence& sequence);

// Where a worker that knows all of the answer so far must pause; 0: nowhere.
int32_t NextPause(const RoutedSequence& sequence);

// Takes new output into the resume point. Errors: Internal for a token that differs from one that
// was fed.
absl::Status RecordTokens(const std::vector<AnswerToken>& tokens, RoutedSequence* sequence);

// How the answer ended if its last token was its end, which a worker may not have lived to report.
std::optional<AnswerEnd> EndOfAnswer(const RoutedSequence& sequence);

}  // namespace m1
