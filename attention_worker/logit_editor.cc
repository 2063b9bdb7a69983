#include "attention_worker/logit_editor.h"

#include <limits>

namespace m1 {

LogitEditor::LogitEditor(const SequenceStart& start)
    : repetition_penalty_(start.sampling.repetition_penalty),
      presence_penalty_(start.sampling.presence_penalty),
      frequency_penalty_(start.sampling.frequency_penalty),
      first_generated_index_(start.first_generated_index()),
      min_new_tokens_(start.min_new_tokens) {
  for (const auto& [id, bias] : start.sampling.logit_bias) {
    const size_t place = PlaceOf(id);
    tokens_[place].bias = bias;
    Refresh(place);
  }
  if (min_new_tokens_ == 0) return;
  for (const int32_t id : start.stop_token_ids) tokens_[PlaceOf(id)].is_stop = true;
}

std::span<const LogitEdit> LogitEditor::Next(std::span<const int32_t> tokens) {
  const auto num_tokens = static_cast<int64_t>(tokens.size());
  const bool counts_generated = presence_penalty_ != 0.0F || frequency_penalty_ != 0.0F;
  const bool counts_all = repetition_penalty_ != 1.0F;
  for (; num_counted_ < num_tokens; ++num_counted_) {
    const bool is_generated = num_counted_ >= first_generated_index_;
    if (!counts_all && !(counts_generated && is_generated)) continue;
    Count(tokens[static_cast<size_t>(num_counted_)], is_generated);
  }
  const bool masks_stops = num_tokens - first_generated_index_ < min_new_tokens_;
  if (masks_stops != masks_stops_) {
    masks_stops_ = masks_stops;
    for (size_t place = 0; place < tokens_.size(); ++place) Refresh(place);
  }
  return edits_;
}

size_t LogitEditor::PlaceOf(int32_t id) {
  const auto [entry, is_new] = places_.try_emplace(id, static_cast<uint32_t>(edits_.size()));
  if (is_new) {
    edits_.push_back({.id = id});
    tokens_.emplace_back();
  }
  return entry->second;
}

void LogitEditor::Count(int32_t id, bool is_generated) {
  const size_t place = PlaceOf(id);
  EditedToken& token = tokens_[place];
  if (is_generated) ++token.count;
  token.is_repetition = true;
  Refresh(place);
}

void LogitEditor::Refresh(size_t place) {
  const EditedToken& token = tokens_[place];
  LogitEdit& edit = edits_[place];
  edit.penalty = token.is_repetition ? repetition_penalty_ : 1.0F;
  if (masks_stops_ && token.is_stop) {
    edit.offset = -std::numeric_limits<float>::infinity();
    return;
  }
  const float presence = token.count > 0 ? presence_penalty_ : 0.0F;
  edit.offset = token.bias - (frequency_penalty_ * static_cast<float>(token.count) + presence);
}

}  // namespace m1
