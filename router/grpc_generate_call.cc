#include "router/grpc_generate_call.h"

#include <algorithm>
#include <utility>

#include "absl/strings/str_cat.h"

#include "common/base/status_macros.h"
#include "common/rpc/grpc_status.h"
#include "router/grpc_response.h"
#include "router/grpc_violations.h"

namespace m1 {
namespace {

constexpr absl::Duration kSlowReaderRetryDelay = absl::Seconds(1);
// After its workers were lost for long: they may be starting.
constexpr absl::Duration kWorkerRetryDelay = absl::Seconds(5);

v1::FinishReason ReasonOf(AnswerEnd end) {
  switch (end) {
    case AnswerEnd::kStopToken:
    case AnswerEnd::kStopString:
      return v1::FINISH_REASON_STOP;
    case AnswerEnd::kLength:
      return v1::FINISH_REASON_LENGTH;
    case AnswerEnd::kRepetition:
      return v1::FINISH_REASON_REPETITION;
    case AnswerEnd::kCancelled:
    case AnswerEnd::kError:
      break;
  }
  return v1::FINISH_REASON_CANCELLED;
}

// The identity of its certificate, else its address without the port.
std::string ClientOf(const grpc::CallbackServerContext& context) {
  if (const auto auth = context.auth_context(); auth != nullptr && auth->IsPeerAuthenticated()) {
    const std::vector<grpc::string_ref> identity = auth->GetPeerIdentity();
    if (!identity.empty()) return {identity[0].data(), identity[0].size()};
  }
  const std::string peer = context.peer();  // ipv4:10.0.0.1:4711, ipv6:%5B::1%5D:4711, unix:
  return peer.substr(0, peer.find_last_of(':'));
}

}  // namespace

GenerateCall::GenerateCall(const GenerateCallContext& context,
                           grpc::CallbackServerContext* server_context)
    : context_(context), server_context_(server_context), arrival_time_(context.clock->Now()) {}

void GenerateCall::Refuse(const absl::Status& status) {
  MutexLock lock(&mutex_);
  EndNow(status);
}

void GenerateCall::Begin(GenerationRequest request) {
  request_id_ = request.request_id;
  seed_ = request.sampling.seed;
  sends_prompt_ids_ = request.prompt_token_ids;
  prompt_ids_ = request.prompt_ids;
  eos_token_ids_ = request.eos_token_ids;
  {
    MutexLock lock(&mutex_);
    if (called_finish_) return;  // the client is gone
    answer_.emplace(context_.pieces, AnswerOptions{.is_chat = request.is_chat,
                                                   .tools_enabled = request.tools_enabled,
                                                   .stop_token_ids = request.stop_token_ids,
                                                   .stop_strings = request.stop_strings,
                                                   .include_stop_text = request.include_stop_text,
                                                   .min_new_tokens = request.min_new_tokens});
    answer_->GoOnAfter(std::span(request.prompt_ids)
                           .last(static_cast<size_t>(request.generated_prompt_token_count)));
  }
  request.client = ClientOf(*server_context_);
  request.deadline = absl::FromChrono(server_context_->deadline());
  const absl::StatusOr<int64_t> id = Register(std::move(request));
  bool is_cancelled = false;
  bool is_aborted = false;
  {
    MutexLock lock(&mutex_);
    if (!id.ok()) return EndNow(id.status());
    sequence_id_ = *id;
    is_cancelled = is_cancelled_;
    is_aborted = is_aborted_;
    Proceed();
  }
  if (is_cancelled) context_.dispatcher->Cancel(*id);
  if (is_aborted) context_.dispatcher->Abort(*id);
}

absl::StatusOr<int64_t> GenerateCall::Register(GenerationRequest request) {
  M1_RETURN_IF_ERROR(context_.registry->Add(request_id_, shared_from_this()));
  bool is_gone = false;
  {
    MutexLock lock(&mutex_);
    is_registered_ = true;
    is_gone = called_finish_ || is_done_;
  }
  if (is_gone) {
    context_.registry->Remove(request_id_, this);
    return absl::CancelledError("the client is gone");
  }
  absl::StatusOr<int64_t> id = context_.dispatcher->Submit(std::move(request), shared_from_this());
  if (absl::IsResourceExhausted(id.status())) {
    return WithRetryDelay(id.status(), context_.dispatcher->AdviseRetry());
  }
  return id;
}

void GenerateCall::OnWriteDone(bool ok) {
  bool resumes = false;
  int64_t id = 0;
  {
    MutexLock lock(&mutex_);
    is_writing_ = false;
    id = *sequence_id_;  // nothing is written before
    if (!ok) {
      is_cancelled_ = true;
      EndNow(absl::CancelledError("the client is gone"));
    } else {
      Proceed();
      resumes = is_parked_ && waiting_bytes_ <= kMaxBufferedBytes / 2;
      if (resumes) is_parked_ = false;
    }
  }
  if (!ok) FreeSequence();
  if (resumes) context_.dispatcher->Resume(id);
}

void GenerateCall::OnCancel() {
  {
    MutexLock lock(&mutex_);
    is_cancelled_ = true;
    EndNow(absl::CancelledError("cancelled by the client, or its deadline has passed"));
  }
  FreeSequence();
}

void GenerateCall::OnDone() {
  bool is_registered = false;
  {
    MutexLock lock(&mutex_);
    is_done_ = true;
    is_registered = is_registered_;
  }
  if (is_registered) context_.registry->Remove(request_id_, this);
  const std::shared_ptr<GenerateCall> last_reference = std::move(self_);
}

void GenerateCall::OnStarted(absl::Time now) {
  MutexLock lock(&mutex_);
  started_ = now;
}

SinkState GenerateCall::OnPromptTokens(int32_t first_index, std::vector<AnswerToken> tokens) {
  MutexLock lock(&mutex_);
  for (v1::Prompt& prompt : ToPromptMessages(first_index, tokens, *context_.pieces)) {
    EnqueuePrompt(std::move(prompt));
  }
  Proceed();
  return BufferState();
}

SinkState GenerateCall::OnTokens(std::vector<AnswerToken> tokens, absl::Time now) {
  MutexLock lock(&mutex_);
  if (!first_token_) first_token_ = now;
  EnqueueDeltas(answer_->Push(std::move(tokens)));
  Proceed();
  return answer_->matched_stop_string() ? SinkState::kIsComplete : BufferState();
}

void GenerateCall::OnFinished(AnswerEnd end, int32_t stop_token_id, absl::Time now) {
  MutexLock lock(&mutex_);
  EnqueueDeltas(answer_->Finish());
  v1::GenerateResponse response = MakeResponse();
  FillFinish(end, stop_token_id, now, response.mutable_finish());
  Enqueue(response);
  end_ = absl::OkStatus();
  ReleaseId();  // before the client can know of the end
  Proceed();
}

void GenerateCall::OnFailed(const absl::Status& status) {
  MutexLock lock(&mutex_);
  end_ = absl::IsUnavailable(status) ? WithRetryDelay(status, kWorkerRetryDelay) : status;
  ReleaseId();
  Proceed();
}

void GenerateCall::Abort() {
  std::optional<int64_t> id;
  {
    MutexLock lock(&mutex_);
    is_aborted_ = true;
    id = sequence_id_;
  }
  if (id) context_.dispatcher->Abort(*id);
}

void GenerateCall::CheckReader(absl::Time now) {
  bool gave_up = false;
  {
    MutexLock lock(&mutex_);
    if (is_done_ || !is_writing_) return;
    const absl::Duration silence = now - write_started_;
    if (silence > context_.slow_reader_timeout && !called_finish_) {
      gave_up = true;
      EndNow(WithRetryDelay(
          absl::ResourceExhaustedError(absl::StrCat(
              "the client did not read for ", absl::FormatDuration(context_.slow_reader_timeout))),
          kSlowReaderRetryDelay));
    } else if (silence > 2 * context_.slow_reader_timeout) {
      // It does not even read the status.
      server_context_->TryCancel();
    }
  }
  if (gave_up) FreeSequence();
}

v1::GenerateResponse GenerateCall::MakeResponse() const {
  v1::GenerateResponse response;
  response.set_request_id(request_id_);
  return response;
}

void GenerateCall::EnqueuePrompt(v1::Prompt prompt) {
  prompt.set_token_count(static_cast<int32_t>(prompt_ids_.size()));
  prompt.set_seed(seed_);
  v1::GenerateResponse response = MakeResponse();
  *response.mutable_prompt() = std::move(prompt);
  Enqueue(response);
}

void GenerateCall::EnqueueDeltas(const std::vector<AnswerDelta>& deltas) {
  for (const AnswerDelta& delta : deltas) {
    v1::GenerateResponse response = MakeResponse();
    *response.mutable_delta() = ToProto(delta, *context_.pieces);
    Enqueue(response);
  }
}

void GenerateCall::Enqueue(const v1::GenerateResponse& response) {
  if (called_finish_) return;
  grpc::Slice slice(response.ByteSizeLong());
  // The slice is new and nobody else's, so writing to it is safe.
  response.SerializeToArray(const_cast<uint8_t*>(slice.begin()), static_cast<int>(slice.size()));
  waiting_bytes_ += static_cast<int64_t>(slice.size());
  waiting_.emplace_back(&slice, 1);
}

void GenerateCall::EnqueueNextPromptIds() {
  v1::Prompt prompt;
  if (sends_prompt_ids_) {
    const size_t end = std::min(prompt_ids_.size(), next_prompt_id_ + kPromptIdsPerMessage);
    prompt.set_first_index(static_cast<int32_t>(next_prompt_id_));
    prompt.mutable_token_ids()->Add(
        prompt_ids_.begin() + static_cast<std::ptrdiff_t>(next_prompt_id_),
        prompt_ids_.begin() + static_cast<std::ptrdiff_t>(end));
    next_prompt_id_ = end;
  }
  sent_prompt_ = !sends_prompt_ids_ || next_prompt_id_ == prompt_ids_.size();
  std::deque<grpc::ByteBuffer> later = std::exchange(waiting_, {});
  EnqueuePrompt(std::move(prompt));
  for (grpc::ByteBuffer& buffer : later) waiting_.push_back(std::move(buffer));
}

void GenerateCall::Proceed() {
  if (!sequence_id_ || is_writing_ || called_finish_) return;
  if (!sent_prompt_) EnqueueNextPromptIds();
  if (!waiting_.empty()) {
    written_ = std::move(waiting_.front());
    waiting_.pop_front();
    waiting_bytes_ -= static_cast<int64_t>(written_.Length());
    is_writing_ = true;
    write_started_ = context_.clock->Now();
    StartWrite(&written_);
    return;
  }
  if (end_) EndNow(*end_);
}

void GenerateCall::EndNow(const absl::Status& status) {
  if (called_finish_) return;
  called_finish_ = true;
  waiting_.clear();
  waiting_bytes_ = 0;
  ReleaseId();
  Finish(ToGrpcStatus(status));
}

void GenerateCall::ReleaseId() {
  if (is_registered_) context_.registry->ReleaseId(request_id_, this);
}

SinkState GenerateCall::BufferState() {
  if (waiting_bytes_ > kMaxBufferedBytes) is_parked_ = true;
  return is_parked_ ? SinkState::kIsFull : SinkState::kTakesMore;
}

void GenerateCall::FillFinish(AnswerEnd end, int32_t stop_token_id, absl::Time now,
                              v1::Finish* finish) {
  finish->set_reason(ReasonOf(end));
  if (const std::optional<std::string>& stop_string = answer_->matched_stop_string()) {
    finish->set_reason(v1::FINISH_REASON_STOP);
    finish->set_stop_string(*stop_string);
  } else if (end == AnswerEnd::kStopToken) {
    const bool is_eos = std::find(eos_token_ids_.begin(), eos_token_ids_.end(), stop_token_id) !=
                        eos_token_ids_.end();
    if (is_eos && answer_->num_tool_calls() > 0) {
      finish->set_reason(v1::FINISH_REASON_TOOL_CALLS);
    } else {
      finish->set_stop_token_id(stop_token_id);
    }
  }
  v1::Usage* usage = finish->mutable_usage();
  usage->set_prompt_token_count(static_cast<int32_t>(prompt_ids_.size()));
  usage->set_completion_token_count(answer_->num_tokens());
  usage->set_reasoning_token_count(answer_->num_reasoning_tokens());
  v1::Timing* timing = finish->mutable_timing();
  *timing->mutable_queued() = ToProto(started_.value_or(now) - arrival_time_);
  if (first_token_) {
    *timing->mutable_time_to_first_token() = ToProto(*first_token_ - arrival_time_);
  }
  *timing->mutable_total() = ToProto(now - arrival_time_);
}

// What was finished already is not in the scheduler any more: then nothing happens.
void GenerateCall::FreeSequence() {
  std::optional<int64_t> id;
  {
    MutexLock lock(&mutex_);
    id = sequence_id_;
  }
  if (id) context_.dispatcher->Cancel(*id);
}

}  // namespace m1
