#include "router/grpc_generate_call.h"

#include <algorithm>
#include <utility>

#include "absl/strings/str_cat.h"

#include "common/rpc/grpc_status.h"
#include "router/grpc_response.h"
#include "router/grpc_violations.h"

namespace m1 {
namespace {

constexpr absl::Duration kSlowReaderRetryDelay = absl::Seconds(1);
// After its workers were lost for long, or while the router drains: others may be starting.
constexpr absl::Duration kWorkerRetryDelay = absl::Seconds(5);

// The name of its token, else the identity of its certificate, else its address without the port.
std::string ClientOf(const grpc::CallbackServerContext& context, const Security* security) {
  const auto header = context.client_metadata().find("authorization");
  if (security != nullptr && header != context.client_metadata().end()) {
    const absl::string_view value(header->second.data(), header->second.size());
    if (std::optional<std::string> name = security->ClientName(value)) return *std::move(name);
  }
  if (const auto auth = context.auth_context(); auth != nullptr && auth->IsPeerAuthenticated()) {
    const std::vector<grpc::string_ref> identity = auth->GetPeerIdentity();
    if (!identity.empty()) return {identity[0].data(), identity[0].size()};
  }
  const std::string peer = context.peer();  // ipv4:10.0.0.1:4711, ipv6:%5B::1%5D:4711, unix:
  return peer.substr(0, peer.find_last_of(':'));
}

// Takes the output of one sequence to the call that it belongs to.
class SampleSink final : public SequenceSink {
 public:
  SampleSink(std::shared_ptr<GenerateCall> call, int sample)
      : call_(std::move(call)), sample_(sample) {}

  SinkState OnStarting() override { return call_->OnStarting(sample_); }
  void OnStarted(absl::Time now) override { call_->OnStarted(sample_, now); }
  SinkState OnPromptTokens(int32_t first_index, std::vector<AnswerToken> tokens) override {
    return call_->OnPromptTokens(sample_, first_index, std::move(tokens));
  }
  SinkState OnTokens(std::vector<AnswerToken> tokens, absl::Time now) override {
    return call_->OnTokens(sample_, std::move(tokens), now);
  }
  void OnFinished(AnswerEnd end, int32_t stop_token_id, absl::Time now) override {
    call_->OnFinished(sample_, end, stop_token_id, now);
  }
  void OnFailed(const absl::Status& status) override { call_->OnFailed(status); }

 private:
  const std::shared_ptr<GenerateCall> call_;  // owned by its sequences, too
  const int sample_;
};

}  // namespace

GenerateCall::GenerateCall(const GenerateCallContext& context,
                           grpc::CallbackServerContext* server_context)
    : context_(context),
      server_context_(server_context),
      arrival_time_(context.clock->Now()),
      client_(ClientOf(*server_context, context.security)) {}

void GenerateCall::Refuse(const absl::Status& status) {
  CountRefusal(status);
  MutexLock lock(&mutex_);
  EndNow(status);
}

void GenerateCall::Begin(GenerationRequest request) {
  request.client = client_;
  request.deadline = absl::FromChrono(server_context_->deadline());
  request_ = std::make_shared<const GenerationRequest>(std::move(request));
  {
    MutexLock lock(&mutex_);
    if (called_finish_) return;  // the client is gone
    num_unfinished_ = request_->sample_count;
    pacing_ = ReaderPacing(num_unfinished_);
    for (int i = 0; i < num_unfinished_; ++i) {
      samples_.emplace_back(request_, i, context_.pieces, arrival_time_);
      if (i > 0) EnqueuePrompt(i, v1::Prompt());  // that of sample 0 comes before them
    }
  }
  const absl::StatusOr<int64_t> id = Register();
  bool is_cancelled = false;
  bool is_aborted = false;
  {
    MutexLock lock(&mutex_);
    if (!id.ok()) return EndNow(id.status());
    first_id_ = *id;
    is_cancelled = is_cancelled_;
    is_aborted = is_aborted_;
    Proceed();
  }
  if (is_cancelled) FreeSequences();
  if (is_aborted) AbortSequences(*id);
}

absl::StatusOr<int64_t> GenerateCall::Register() {
  const absl::Status added = context_.registry->Add(request_->request_id, shared_from_this());
  if (!added.ok()) {
    CountRefusal(added);
    return added;
  }
  bool is_gone = false;
  {
    MutexLock lock(&mutex_);
    is_registered_ = true;
    is_gone = called_finish_ || is_done_;
  }
  if (is_gone) {
    context_.registry->Remove(request_->request_id, this);
    return absl::CancelledError("the client is gone");
  }
  std::vector<std::shared_ptr<SequenceSink>> sinks;
  for (int i = 0; i < request_->sample_count; ++i) {
    sinks.push_back(std::make_shared<SampleSink>(shared_from_this(), i));
  }
  absl::StatusOr<int64_t> id = context_.dispatcher->Submit(request_, sinks);
  if (!id.ok()) CountRefusal(id.status());
  if (absl::IsResourceExhausted(id.status())) {
    return WithRetryDelay(id.status(), context_.dispatcher->AdviseRetry());
  }
  if (absl::IsUnavailable(id.status())) return WithRetryDelay(id.status(), kWorkerRetryDelay);
  return id;
}

void GenerateCall::OnWriteDone(bool ok) {
  std::vector<int64_t> resumed_ids;
  {
    MutexLock lock(&mutex_);
    is_writing_ = false;
    if (!ok) {
      is_cancelled_ = true;
      EndNow(absl::CancelledError("the client is gone"));
    } else {
      Proceed();
      resumed_ids = TakeResumed();
    }
  }
  if (!ok) FreeSequences();
  for (const int64_t id : resumed_ids) context_.dispatcher->Resume(id);
}

std::vector<int64_t> GenerateCall::TakeResumed() {
  std::vector<int64_t> ids;
  for (const int sample : pacing_.TakeResumed(waiting_bytes_)) ids.push_back(*first_id_ + sample);
  return ids;
}

void GenerateCall::OnCancel() {
  {
    MutexLock lock(&mutex_);
    is_cancelled_ = true;
    EndNow(absl::CancelledError("cancelled by the client, or its deadline has passed"));
  }
  FreeSequences();
}

void GenerateCall::OnDone() {
  bool is_registered = false;
  bool is_open = false;
  {
    MutexLock lock(&mutex_);
    is_done_ = true;
    is_registered = is_registered_;
    is_open = num_unfinished_ > 0;
  }
  if (is_open) FreeSequences();  // one sample has failed, the others are not needed
  if (is_registered) context_.registry->Remove(request_->request_id, this);
  const std::shared_ptr<GenerateCall> last_reference = std::move(self_);
}

SinkState GenerateCall::OnStarting(int sample) {
  MutexLock lock(&mutex_);
  return end_ ? SinkState::kTakesMore : ReaderState(sample);
}

void GenerateCall::OnStarted(int sample, absl::Time now) {
  MutexLock lock(&mutex_);
  AnswerOf(sample).Start(now);
  if (context_.metrics != nullptr) context_.metrics->OnStarted(now - arrival_time_);
}

SinkState GenerateCall::OnPromptTokens(int sample, int32_t first_index,
                                       std::vector<AnswerToken> tokens) {
  MutexLock lock(&mutex_);
  if (end_) return SinkState::kTakesMore;  // another sample has failed, and the call with it
  for (v1::Prompt& prompt : ToPromptMessages(first_index, tokens, *context_.pieces)) {
    EnqueuePrompt(sample, std::move(prompt));
  }
  Proceed();
  return ReaderState(sample);
}

SinkState GenerateCall::OnTokens(int sample, std::vector<AnswerToken> tokens, absl::Time now) {
  MutexLock lock(&mutex_);
  if (end_) return SinkState::kIsComplete;
  SampleAnswer& answer = AnswerOf(sample);
  if (context_.metrics != nullptr && !tokens.empty()) {
    CountTokens(answer.last_token_time(), static_cast<int64_t>(tokens.size()), now);
  }
  pacing_.OnTokens(sample, static_cast<int64_t>(tokens.size()));
  EnqueueDeltas(sample, answer.Push(std::move(tokens), now));
  Proceed();
  return answer.is_complete() ? SinkState::kIsComplete : ReaderState(sample);
}

void GenerateCall::OnFinished(int sample, AnswerEnd end, int32_t stop_token_id, absl::Time now) {
  MutexLock lock(&mutex_);
  if (end_) return;
  SampleAnswer& answer = AnswerOf(sample);
  EnqueueDeltas(sample, answer.End());
  v1::GenerateResponse response = MakeResponse(sample);
  *response.mutable_finish() = answer.MakeFinish(end, stop_token_id, now);
  last_reason_ = response.finish().reason();
  if (context_.metrics != nullptr) context_.metrics->OnFinish(response.finish());
  Enqueue(response);
  pacing_.OnFinished(sample);
  if (--num_unfinished_ == 0) {
    end_ = absl::OkStatus();
    ReleaseId();  // before the client can know of the end
  }
  Proceed();
}

void GenerateCall::OnFailed(const absl::Status& status) {
  MutexLock lock(&mutex_);
  if (end_) return;
  end_ = absl::IsUnavailable(status) ? WithRetryDelay(status, kWorkerRetryDelay) : status;
  ReleaseId();
  Proceed();
}

void GenerateCall::Abort() {
  std::optional<int64_t> first_id;
  {
    MutexLock lock(&mutex_);
    is_aborted_ = true;
    first_id = first_id_;
  }
  if (first_id) AbortSequences(*first_id);
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
  if (gave_up) FreeSequences();
}

v1::GenerateResponse GenerateCall::MakeResponse(int sample) const {
  v1::GenerateResponse response;
  response.set_request_id(request_->request_id);
  response.set_sample_index(sample);
  return response;
}

void GenerateCall::EnqueuePrompt(int sample, v1::Prompt prompt) {
  prompt.set_token_count(static_cast<int32_t>(request_->prompt_ids.size()));
  prompt.set_seed(AnswerOf(sample).seed());
  v1::GenerateResponse response = MakeResponse(sample);
  *response.mutable_prompt() = std::move(prompt);
  Enqueue(response);
}

void GenerateCall::EnqueueDeltas(int sample, const std::vector<AnswerDelta>& deltas) {
  for (const AnswerDelta& delta : deltas) {
    v1::GenerateResponse response = MakeResponse(sample);
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
  const std::vector<int32_t>& ids = request_->prompt_ids;
  if (request_->prompt_token_ids) {
    const size_t end = std::min(ids.size(), next_prompt_id_ + kPromptIdsPerMessage);
    prompt.set_first_index(static_cast<int32_t>(next_prompt_id_));
    prompt.mutable_token_ids()->Add(ids.begin() + static_cast<std::ptrdiff_t>(next_prompt_id_),
                                    ids.begin() + static_cast<std::ptrdiff_t>(end));
    next_prompt_id_ = end;
  }
  sent_prompt_ = !request_->prompt_token_ids || next_prompt_id_ == ids.size();
  std::deque<grpc::ByteBuffer> later = std::exchange(waiting_, {});
  EnqueuePrompt(0, std::move(prompt));
  for (grpc::ByteBuffer& buffer : later) waiting_.push_back(std::move(buffer));
}

void GenerateCall::Proceed() {
  if (!first_id_ || is_writing_ || called_finish_) return;
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
  if (context_.metrics != nullptr) {
    context_.metrics->OnCallEnd(client_, status, last_reason_,
                                context_.clock->Now() - arrival_time_);
  }
  waiting_.clear();
  waiting_bytes_ = 0;
  ReleaseId();
  Finish(ToGrpcStatus(status));
}

void GenerateCall::CountRefusal(const absl::Status& status) {
  if (context_.metrics != nullptr) context_.metrics->OnRefused(status);
}

void GenerateCall::CountTokens(std::optional<absl::Time> last, int64_t count, absl::Time now) {
  if (last) return context_.metrics->OnMoreTokens(now - *last, count);
  context_.metrics->OnFirstToken(now - arrival_time_);
  if (count > 1) context_.metrics->OnMoreTokens(absl::ZeroDuration(), count - 1);
}

void GenerateCall::ReleaseId() {
  if (is_registered_) context_.registry->ReleaseId(request_->request_id, this);
}

SinkState GenerateCall::ReaderState(int sample) {
  return pacing_.GoesOn(sample, waiting_bytes_) ? SinkState::kTakesMore : SinkState::kIsFull;
}

// What was finished already is not in the scheduler any more: then nothing happens.
void GenerateCall::FreeSequences() {
  std::optional<int64_t> first_id;
  {
    MutexLock lock(&mutex_);
    first_id = first_id_;
  }
  if (!first_id) return;
  for (int i = 0; i < request_->sample_count; ++i) context_.dispatcher->Cancel(*first_id + i);
}

void GenerateCall::AbortSequences(int64_t first_id) {
  for (int i = 0; i < request_->sample_count; ++i) context_.dispatcher->Abort(first_id + i);
}

}  // namespace m1
