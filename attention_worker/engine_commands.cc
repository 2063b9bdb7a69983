// What the engine does with each command; see engine.h.
#include <algorithm>
#include <span>

#include "attention_worker/engine.h"
#include "common/base/log.h"
#include "common/base/status_macros.h"

namespace m1 {
namespace {

absl::Status CheckTokenIds(std::span<const int32_t> ids, int32_t vocab_size) {
  for (const int32_t id : ids) {
    if (id < 0 || id >= vocab_size) {
      return absl::InvalidArgumentError(
          absl::StrCat("token id ", id, " is outside a vocabulary of ", vocab_size));
    }
  }
  return absl::OkStatus();
}

absl::Status CheckVocabulary(const SequenceStart& start, int32_t vocab_size) {
  M1_RETURN_IF_ERROR(CheckTokenIds(start.token_ids, vocab_size));
  M1_RETURN_IF_ERROR(CheckTokenIds(start.fed_token_ids, vocab_size));
  M1_RETURN_IF_ERROR(CheckTokenIds(start.stop_token_ids, vocab_size));
  for (const auto& [id, bias] : start.sampling.logit_bias) {
    M1_RETURN_IF_ERROR(CheckTokenIds({&id, 1}, vocab_size));
  }
  return absl::OkStatus();
}

int64_t SequenceIdOf(const SequenceCommand& command) {
  return std::visit(
      [](const auto& of_sequence) -> int64_t {
        if constexpr (requires { of_sequence.sequence_id; }) {
          return of_sequence.sequence_id;
        } else {
          return 0;
        }
      },
      command);
}

}  // namespace

void Engine::Handle(Command& command) {
  if (auto* add = std::get_if<AddClientCommand>(&command)) {
    clients_.emplace(add->client_id, Client());
    MutexLock lock(&sent_mutex_);
    sent_.emplace(add->client_id, SentCredits{.sink = std::move(add->sink)});
  } else if (auto* remove = std::get_if<RemoveClientCommand>(&command)) {
    clients_.erase(remove->client_id);
    {
      MutexLock lock(&sent_mutex_);
      sent_.erase(remove->client_id);
    }
    policy_.RemoveClient(remove->client_id);
  } else if (auto* of_client = std::get_if<ClientCommand>(&command)) {
    Client* client = FindClient(of_client->client_id);
    if (client != nullptr) HandleClient(of_client->client_id, *client, of_client->command);
  }
}

void Engine::HandleClient(int64_t client_id, Client& client, SequenceCommand& command) {
  if (auto* start = std::get_if<SequenceStart>(&command)) {
    HandleStart(client_id, client, std::move(*start));
    return;
  }
  if (const auto* release = std::get_if<ReleasePrompt>(&command)) {
    policy_.ReleaseGroup({client_id, release->prompt_group});
    return;
  }
  const int64_t sequence_id = SequenceIdOf(command);
  Sequence* sequence = policy_.Find({client_id, sequence_id});
  if (sequence == nullptr) {  // it ended while the command was on its way
    M1_VLOG(1) << "command for unknown sequence_id=" << sequence_id;
  } else if (std::holds_alternative<CancelSequence>(command)) {
    Finish({client_id, sequence_id}, {.sequence_id = sequence_id, .end = SequenceEnd::kCancelled});
  } else if (std::holds_alternative<PreemptSequence>(command)) {
    policy_.Remove({client_id, sequence_id});
    ReportPreempted({client_id, sequence_id});
  } else if (const auto* go_on = std::get_if<ContinueSequence>(&command)) {
    HandleContinue(*sequence, *go_on);
  } else {
    HandleTakeTokens(*sequence, std::get<TakeTokens>(command));
  }
}

void Engine::HandleStart(int64_t client_id, Client& client, SequenceStart start) {
  ++client.handled_start_count;
  const int64_t sequence_id = start.sequence_id;
  absl::Status status = CheckVocabulary(start, forward_->config().vocab_size);
  if (status.ok()) status = policy_.Add({client_id, sequence_id}, std::move(start));
  if (!status.ok()) {
    client.events.finished.push_back(FailedSequence(sequence_id, std::move(status)));
    return;
  }
  Sequence& sequence = *policy_.Find({client_id, sequence_id});
  if (sequence.start.prompt_logprobs && sequence.next_prompt_index == 0) {
    // Nothing predicts the first token.
    client.events.prompt_tokens.push_back(
        {.sequence_id = sequence_id, .first_index = 0, .tokens = {{.id = sequence.tokens[0]}}});
    sequence.next_prompt_index = 1;
  }
  sequence.Feed(sequence.start.fed_token_ids);
  // A resume point may lie behind the end that its last worker did not live to report.
  if (sequence.num_generated() > 0 && sequence.next_generated_index == sequence.num_tokens()) {
    AfterToken(sequence, sequence.num_tokens() - 1);
    if (sequence.phase == SequencePhase::kPaused) {
      client.events.paused_sequence_ids.push_back(sequence_id);
    }
    if (sequence.end && sequence.next_prompt_index < sequence.start.prompt_token_count) {
      sequence.end_when_scored = std::exchange(sequence.end, std::nullopt);
    } else if (sequence.end) {
      FinishedSequence end = *std::move(sequence.end);
      Finish({client_id, sequence_id}, std::move(end));
    }
  }
}

void Engine::HandleContinue(Sequence& sequence, const ContinueSequence& go_on) {
  const int32_t pause = go_on.pause_at_generated_count;
  if (pause == 0 || pause > sequence.num_generated()) return sequence.Resume(pause);
  Finish(SequenceKey(sequence.key),
         FailedSequence(go_on.sequence_id, absl::InvalidArgumentError(absl::StrCat(
                                               "a pause at ", pause, " when ",
                                               sequence.num_generated(), " were generated"))));
}

void Engine::HandleTakeTokens(Sequence& sequence, const TakeTokens& take) {
  absl::Status status = CheckTokenIds(take.token_ids, forward_->config().vocab_size);
  if (take.token_ids.empty()) status = absl::InvalidArgumentError("no tokens to take");
  if (sequence.phase != SequencePhase::kPaused) {
    status = absl::FailedPreconditionError(
        absl::StrCat("sequence ", take.sequence_id, " is not paused"));
  }
  if (!status.ok()) {
    Finish(SequenceKey(sequence.key), FailedSequence(take.sequence_id, std::move(status)));
    return;
  }
  sequence.Feed(take.token_ids);
  sequence.Resume(take.pause_at_generated_count);
}

}  // namespace m1
