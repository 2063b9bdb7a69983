#include "tests/router/fake_attention_worker.h"

#include <grpcpp/security/server_credentials.h>
#include <grpcpp/server_builder.h>

#include <algorithm>
#include <deque>
#include <map>
#include <thread>

#include "absl/strings/str_cat.h"
#include "absl/time/clock.h"

#include "common/base/check.h"
#include "common/exchange/identity.h"

namespace m1 {
namespace {

constexpr int64_t kBlockTokens = 64;

v1::TokenResult MakeToken(int32_t id, int candidate_count) {
  v1::TokenResult token;
  token.set_id(id);
  token.set_logprob(FakeLogprob(id));
  token.set_rank(id % 5 + 1);
  for (int i = 0; i < candidate_count; ++i) {
    token.add_candidate_ids((id + i) % 256);
    token.add_candidate_logprobs(FakeLogprob((id + i) % 256));
  }
  return token;
}

}  // namespace

int32_t FakeNextToken(const std::vector<int32_t>& token_ids, uint64_t seed) {
  uint64_t hash = seed ^ 0x9E3779B97F4A7C15;
  for (int32_t id : token_ids) hash = (hash ^ static_cast<uint64_t>(id)) * 0x100000001B3;
  return static_cast<int32_t>((hash >> 32) % 256);
}

std::vector<int32_t> FakeAnswer(std::vector<int32_t> prompt, uint64_t seed, int count) {
  std::vector<int32_t> answer;
  for (int i = 0; i < count; ++i) {
    answer.push_back(FakeNextToken(prompt, seed));
    prompt.push_back(answer.back());
  }
  return answer;
}

float FakeLogprob(int32_t id) { return -0.125F * static_cast<float>(id % 16); }

struct FakeAttentionWorker::FakeSequence {
  v1::Start start;
  std::vector<int32_t> tokens;
  std::vector<int32_t> script;  // whole answer, if the worker has one
  int32_t generated = 0;
  int32_t next_prompt_index = 0;
  bool is_paused = false;
  std::deque<int32_t> fed;  // not yet reported
  int32_t pause_at = 0;     // 0: nowhere

  void GoOn(const google::protobuf::RepeatedField<int32_t>& feed, int32_t next_pause) {
    fed.insert(fed.end(), feed.begin(), feed.end());
    pause_at = next_pause;
    is_paused = false;
  }
};

struct FakeAttentionWorker::FakeStream {
  std::map<int64_t, FakeSequence> sequences;
  std::vector<v1::Finished> cancelled;
  int64_t handled_start_count = 0;
  int preempt_generation = 0;
  int pause_generation = 0;
  bool ended = false;
  bool credits_changed = false;
};

FakeAttentionWorker::FakeAttentionWorker(FakeWorkerOptions options)
    : options_(std::move(options)), is_ready_(options_.is_ready) {
  grpc::ServerBuilder builder;
  builder.AddListeningPort(absl::StrCat("127.0.0.1:", options_.port),
                           grpc::InsecureServerCredentials(), &port_);
  builder.SetMaxReceiveMessageSize(-1);
  builder.AddChannelArgument(GRPC_ARG_HTTP2_MIN_RECV_PING_INTERVAL_WITHOUT_DATA_MS, 5000);
  builder.RegisterService(this);
  server_ = builder.BuildAndStart();
  M1_CHECK_MSG(server_ != nullptr, "the fake worker cannot listen");
}

FakeAttentionWorker::~FakeAttentionWorker() { Die(); }

std::string FakeAttentionWorker::address() const { return absl::StrCat("127.0.0.1:", port_); }

void FakeAttentionWorker::Die() {
  {
    MutexLock lock(&mutex_);
    if (is_dead_) return;
    is_dead_ = true;
    changed_.SignalAll();
  }
  server_->Shutdown(std::chrono::system_clock::now());
}

void FakeAttentionWorker::HoldSteps(bool held) {
  MutexLock lock(&mutex_);
  is_held_ = held;
  changed_.SignalAll();
}

void FakeAttentionWorker::PreemptAll() {
  MutexLock lock(&mutex_);
  ++preempt_generation_;
  changed_.SignalAll();
}

void FakeAttentionWorker::PauseAll() {
  MutexLock lock(&mutex_);
  ++pause_generation_;
  changed_.SignalAll();
}

void FakeAttentionWorker::SetReady(bool ready) {
  MutexLock lock(&mutex_);
  is_ready_ = ready;
  tells_credits_ = true;
  changed_.SignalAll();
}

std::vector<v1::Start> FakeAttentionWorker::starts() const {
  MutexLock lock(&mutex_);
  return starts_;
}

int FakeAttentionWorker::num_starts() const {
  MutexLock lock(&mutex_);
  return num_starts_;
}

int FakeAttentionWorker::num_cancels() const {
  MutexLock lock(&mutex_);
  return num_cancels_;
}

int FakeAttentionWorker::num_continues() const {
  MutexLock lock(&mutex_);
  return num_continues_;
}

int FakeAttentionWorker::num_takes() const {
  MutexLock lock(&mutex_);
  return num_takes_;
}

int FakeAttentionWorker::num_sequences() const {
  MutexLock lock(&mutex_);
  return num_sequences_;
}

grpc::Status FakeAttentionWorker::Describe(grpc::ServerContext* /*context*/,
                                           const v1::DescribeAttentionRequest* /*request*/,
                                           v1::DescribeAttentionResponse* response) {
  *response->mutable_identity() = MakeIdentity();
  *response->mutable_limits() = MakeLimits();
  response->mutable_load()->set_used_sequences(num_sequences());
  return grpc::Status::OK;
}

grpc::Status FakeAttentionWorker::Run(
    grpc::ServerContext* context, grpc::ServerReaderWriter<v1::RunEvent, v1::RunCommand>* stream) {
  v1::RunCommand hello;
  if (!stream->Read(&hello) || !hello.has_hello()) {
    return grpc::Status(grpc::StatusCode::INVALID_ARGUMENT, "the first command is not Hello");
  }
  FakeStream state;
  v1::RunEvent event;
  {
    MutexLock lock(&mutex_);
    state.preempt_generation = preempt_generation_;
    state.pause_generation = pause_generation_;
    *event.mutable_welcome()->mutable_identity() = MakeIdentity();
    *event.mutable_welcome()->mutable_limits() = MakeLimits();
    *event.mutable_welcome()->mutable_credits() = MakeCredits(state);
  }
  if (!stream->Write(event)) return grpc::Status::OK;
  std::thread reader([this, stream, &state] { ReadCommands(stream, &state); });
  while (true) {
    event.Clear();
    bool has_news = false;
    {
      MutexLock lock(&mutex_);
      if (is_dead_ || state.ended) break;
      has_news = Step(&state, event.mutable_step());
      if (!has_news) {
        changed_.WaitUntil(&mutex_, absl::Now() + absl::Milliseconds(50));
        continue;
      }
    }
    if (!stream->Write(event)) break;
    absl::SleepFor(options_.step_time);
  }
  context->TryCancel();
  reader.join();
  MutexLock lock(&mutex_);
  num_sequences_ -= static_cast<int>(state.sequences.size());
  return grpc::Status::OK;
}

void FakeAttentionWorker::ReadCommands(
    grpc::ServerReaderWriter<v1::RunEvent, v1::RunCommand>* reader, FakeStream* state) {
  v1::RunCommand command;
  while (reader->Read(&command)) {
    MutexLock lock(&mutex_);
    Apply(command, state);
    changed_.SignalAll();
  }
  MutexLock lock(&mutex_);
  state->ended = true;
  changed_.SignalAll();
}

void FakeAttentionWorker::Apply(const v1::RunCommand& command, FakeStream* state) {
  if (command.has_start()) {
    const v1::Start& start = command.start();
    starts_.push_back(start);
    ++state->handled_start_count;
    ++num_sequences_;
    ++num_starts_;
    FakeSequence& sequence = state->sequences[start.sequence_id()];
    sequence.start = start;
    sequence.tokens.assign(start.token_ids().begin(), start.token_ids().end());
    sequence.generated =
        start.token_ids_size() - start.prompt_token_count() + start.generated_prompt_token_count();
    sequence.next_prompt_index = start.report().next_prompt_logprob_index();
    sequence.GoOn(start.fed_token_ids(), start.pause_at_generated_count());
    if (options_.script) sequence.script = options_.script(start);
  } else if (command.has_cancel()) {
    ++num_cancels_;
    if (state->sequences.erase(command.cancel().sequence_id()) == 0) return;
    --num_sequences_;
    v1::Finished finished;
    finished.set_sequence_id(command.cancel().sequence_id());
    finished.set_end(v1::SEQUENCE_END_CANCELLED);
    state->cancelled.push_back(finished);
  } else if (command.has_continue_sequence()) {
    ++num_continues_;
    const v1::Continue& go_on = command.continue_sequence();
    const auto it = state->sequences.find(go_on.sequence_id());
    if (it != state->sequences.end()) it->second.GoOn({}, go_on.pause_at_generated_count());
  } else if (command.has_take_tokens()) {
    ++num_takes_;
    const v1::TakeTokens& take = command.take_tokens();
    const auto it = state->sequences.find(take.sequence_id());
    if (it != state->sequences.end()) {
      it->second.GoOn(take.token_ids(), take.pause_at_generated_count());
    }
  }
}

bool FakeAttentionWorker::Step(FakeStream* state, v1::StepResult* step) {
  bool has_news = std::exchange(tells_credits_, false) || !state->cancelled.empty();
  for (const v1::Finished& finished : state->cancelled) *step->add_finished() = finished;
  state->cancelled.clear();
  if (state->preempt_generation != preempt_generation_) {
    state->preempt_generation = preempt_generation_;
    for (const auto& entry : state->sequences) step->add_preempted_sequence_ids(entry.first);
    num_sequences_ -= static_cast<int>(state->sequences.size());
    state->sequences.clear();
    has_news = true;
  }
  if (state->pause_generation != pause_generation_) {
    state->pause_generation = pause_generation_;
    for (auto& entry : state->sequences) {
      entry.second.is_paused = true;
      step->add_paused_sequence_ids(entry.first);
      has_news = true;
    }
  }
  for (auto it = state->sequences.begin(); !is_held_ && it != state->sequences.end();) {
    if (it->second.is_paused) {
      ++it;
      continue;
    }
    has_news = true;
    if (StepSequence(&it->second, step)) {
      ++it;
    } else {
      it = state->sequences.erase(it);
      --num_sequences_;
    }
  }
  *step->mutable_credits() = MakeCredits(*state);
  return has_news;
}

// One token, or one chunk of scored prompt; false when the sequence has ended.
bool FakeAttentionWorker::StepSequence(FakeSequence* sequence, v1::StepResult* step) {
  const v1::Start& start = sequence->start;
  const int32_t prompt_count = start.prompt_token_count();
  if (start.report().prompt_logprobs() && sequence->next_prompt_index < prompt_count) {
    v1::PromptTokens* scored = step->add_prompt_tokens();
    scored->set_sequence_id(start.sequence_id());
    scored->set_first_index(sequence->next_prompt_index);
    const int32_t end =
        std::min(prompt_count, sequence->next_prompt_index + options_.prompt_chunk_tokens);
    for (; sequence->next_prompt_index < end; ++sequence->next_prompt_index) {
      const int32_t id = start.token_ids(sequence->next_prompt_index);
      v1::TokenResult token = MakeToken(id, start.report().candidate_count());
      if (sequence->next_prompt_index == 0) {
        token.Clear();
        token.set_id(id);
      }
      *scored->add_tokens() = token;
    }
    return true;
  }
  v1::Finished finished;
  finished.set_sequence_id(start.sequence_id());
  if (sequence->generated >= start.limits().max_new_tokens()) {
    finished.set_end(v1::SEQUENCE_END_LENGTH);
    *step->add_finished() = finished;
    return false;
  }
  const std::optional<int32_t> id = NextToken(sequence);
  if (!id) {
    finished.set_end(v1::SEQUENCE_END_ERROR);
    finished.set_status_code(13);
    finished.set_status_message(options_.error_message);
    *step->add_finished() = finished;
    return false;
  }
  sequence->tokens.push_back(*id);
  ++sequence->generated;
  v1::SequenceTokens* tokens = step->add_tokens();
  tokens->set_sequence_id(start.sequence_id());
  *tokens->add_tokens() = MakeToken(*id, start.report().candidate_count());
  const auto& stops = start.limits().stop_token_ids();
  if (std::find(stops.begin(), stops.end(), *id) != stops.end()) {
    finished.set_end(v1::SEQUENCE_END_STOP_TOKEN);
    finished.set_stop_token_id(*id);
    *step->add_finished() = finished;
    return false;
  }
  if (sequence->fed.empty() && sequence->generated == sequence->pause_at) {
    sequence->is_paused = true;
    step->add_paused_sequence_ids(start.sequence_id());
  }
  return true;
}

std::optional<int32_t> FakeAttentionWorker::NextToken(FakeSequence* sequence) {
  if (!sequence->fed.empty()) {
    const int32_t id = sequence->fed.front();
    sequence->fed.pop_front();
    return id;
  }
  if (!options_.script) {
    return FakeNextToken(sequence->tokens, sequence->start.sampling().seed());
  }
  const auto index = static_cast<size_t>(sequence->generated);
  if (index >= sequence->script.size()) return std::nullopt;
  return sequence->script[index];
}

v1::Credits FakeAttentionWorker::MakeCredits(const FakeStream& state) const {
  v1::Credits credits;
  credits.set_handled_start_count(state.handled_start_count);
  credits.set_state_slots(options_.max_sequences - static_cast<int32_t>(state.sequences.size()));
  int64_t blocks = options_.kv_blocks;
  for (const auto& entry : state.sequences) {
    blocks -= static_cast<int64_t>(entry.second.tokens.size()) / kBlockTokens + 1;
  }
  credits.set_kv_blocks(blocks);
  credits.set_ready(is_ready_);
  return credits;
}

v1::WorkerIdentity FakeAttentionWorker::MakeIdentity() const {
  v1::WorkerIdentity identity;
  identity.set_fingerprint(options_.fingerprint);
  identity.set_weight_format("bf16");
  identity.set_activation_dtype("fp32");
  identity.set_device_kind("cpu");
  identity.set_numerics_revision(1);
  identity.set_protocol_revision(kProtocolRevision);
  return identity;
}

v1::WorkerLimits FakeAttentionWorker::MakeLimits() const {
  v1::WorkerLimits limits;
  limits.set_max_sequences(options_.max_sequences);
  limits.set_kv_blocks(options_.kv_blocks);
  limits.set_max_context_tokens(options_.max_context_tokens);
  limits.set_max_step_tokens(512);
  return limits;
}

}  // namespace m1
