#include "router/answer.h"

#include <algorithm>
#include <cstddef>
#include <utility>

namespace m1 {
namespace {

constexpr absl::string_view kReplacement = "\xEF\xBF\xBD";

// Pushes the first byte of a token; tells whether it went on with the character that was begun
// before it. If not, that character was shown as U+FFFD.
bool PushFirstByte(absl::string_view byte, Utf8Stream* utf8, std::string* shown) {
  const int num_held = utf8->num_held_bytes();
  const std::string now = utf8->Push(byte);
  *shown += now;
  if (num_held == 0) return false;
  if (now.empty()) return true;
  const bool is_whole_character =
      utf8->num_held_bytes() == 0 && static_cast<int>(now.size()) == num_held + 1;
  // Three held bytes begin with F0 or above, so what starts like U+FFFD was not them.
  return is_whole_character && !(num_held == 3 && now.compare(0, 3, kReplacement.data(), 3) == 0);
}

}  // namespace

AnswerBuilder::AnswerBuilder(const TokenPieces* pieces, AnswerOptions options)
    : pieces_(pieces),
      options_(std::move(options)),
      stops_(options_.stop_strings),
      parser_(options_.tools_enabled) {}

void AnswerBuilder::GoOnAfter(std::span<const int32_t> ids) {
  std::vector<AnswerToken> earlier;
  for (const int32_t id : ids)
    earlier.push_back({.id = id, .logprob = 0, .rank = 0, .candidates = {}});
  Push(std::move(earlier));  // shown by that stream
  num_earlier_tokens_ = num_tokens_;
  num_earlier_reasoning_tokens_ = thought_.num_tokens();
}

std::vector<AnswerDelta> AnswerBuilder::Push(std::vector<AnswerToken> tokens) {
  AnswerDelta plain;
  ParsedOutput parsed;
  for (AnswerToken& token : tokens) {
    if (matched_stop_string()) break;
    ++num_tokens_;
    const absl::string_view bytes = ShownBytes(token.id);
    thought_.Push(bytes);
    if (options_.is_chat) {
      Hold(std::move(token), &parsed);
    } else {
      plain.text += Release(utf8_.Push(bytes));
      plain.tokens.push_back(std::move(token));
    }
  }
  if (options_.is_chat) return Assemble(std::move(parsed.events), /*take_all=*/false);
  if (plain.tokens.empty()) return {};
  return {std::move(plain)};
}

std::vector<AnswerDelta> AnswerBuilder::Finish() {
  std::string rest;
  if (!matched_stop_string()) {
    rest = Release(utf8_.End());
    rest += stops_.Finish();
  }
  if (!options_.is_chat) {
    if (rest.empty()) return {};
    return {AnswerDelta{OutputChannel::kContent, rest, {}, std::nullopt}};
  }
  ParsedOutput parsed;
  Feed(rest, &parsed);
  // The channels of tokens whose text is cut off are as if it were not.
  OutputParser uncut = parser_;
  for (OutputEvent& event : parser_.Finish().events) parsed.events.push_back(std::move(event));
  absl::string_view cut_text = stops_.cut_text();
  if (options_.include_stop_text && matched_stop_string()) {
    cut_text.remove_prefix(matched_stop_string()->size());
  }
  Tell(uncut.Feed(cut_text).channels);
  Tell(uncut.Finish().channels);
  return Assemble(std::move(parsed.events), /*take_all=*/true);
}

std::string AnswerBuilder::Release(absl::string_view text) {
  std::string shown = stops_.Push(text, /*may_match=*/num_tokens_ > options_.min_new_tokens);
  if (matched_stop_string() && options_.include_stop_text) shown += *matched_stop_string();
  return shown;
}

void AnswerBuilder::Hold(AnswerToken token, ParsedOutput* parsed) {
  HeldToken held;
  held.begin = held.end = num_text_bytes_;
  held.in_reasoning = thought_.state() == ThoughtState::kOpen;
  const absl::string_view bytes = ShownBytes(token.id);
  held.token = std::move(token);
  if (!bytes.empty()) {
    std::string text;
    const bool had_held = utf8_.num_held_bytes() > 0;
    const bool goes_on = PushFirstByte(bytes.substr(0, 1), &utf8_, &text);
    if (had_held && !goes_on) held.begin += static_cast<int64_t>(kReplacement.size());
    text += utf8_.Push(bytes.substr(1));
    num_text_bytes_ += static_cast<int64_t>(text.size());
    Feed(Release(text), parsed);
    held.end = std::max(held.begin + 1, num_text_bytes_);
  }
  held_.push_back(std::move(held));
}

void AnswerBuilder::Feed(absl::string_view text, ParsedOutput* parsed) {
  if (text.empty()) return;
  ParsedOutput fed = parser_.Feed(text);
  Tell(fed.channels);
  for (OutputEvent& event : fed.events) parsed->events.push_back(std::move(event));
}

void AnswerBuilder::Tell(const std::vector<ChannelRun>& channels) {
  for (const ChannelRun& run : channels) {
    told_.push_back({run.channel, num_told_bytes_, num_told_bytes_ + run.num_bytes});
    num_told_bytes_ += run.num_bytes;
  }
}

OutputChannel AnswerBuilder::ChannelAt(int64_t offset) const {
  for (const ToldRun& run : told_) {
    if (offset < run.end) return run.channel;
  }
  return last_channel_;
}

std::vector<AnswerDelta> AnswerBuilder::TakeToldTokens(bool take_all) {
  std::vector<AnswerDelta> runs;
  while (!held_.empty() && (take_all || held_.front().end <= num_told_bytes_)) {
    HeldToken held = std::move(held_.front());
    held_.pop_front();
    if (held.end > held.begin) {
      while (!told_.empty() && told_.front().end <= held.begin) told_.pop_front();
      last_channel_ = ChannelAt(held.begin);
    } else if (held.in_reasoning) {
      // No byte of its own: it stays with what came before.
      last_channel_ = OutputChannel::kReasoning;
    }
    if (runs.empty() || runs.back().channel != last_channel_) {
      runs.push_back(AnswerDelta{last_channel_, "", {}, std::nullopt});
    }
    runs.back().tokens.push_back(std::move(held.token));
  }
  return runs;
}

// Pairs the runs of tokens with the pieces of text: both are in order, and a run meets the piece of
// its channel. A piece without a run (its tokens came before) or a run without text stands alone.
std::vector<AnswerDelta> AnswerBuilder::Assemble(std::vector<OutputEvent> events, bool take_all) {
  std::vector<AnswerDelta> runs = TakeToldTokens(take_all);
  std::vector<AnswerDelta> deltas;
  size_t next_run = 0;
  for (OutputEvent& event : events) {
    size_t match = next_run;
    while (match < runs.size() && runs[match].channel != event.channel) ++match;
    AnswerDelta delta;
    if (match < runs.size()) {
      for (; next_run < match; ++next_run) deltas.push_back(std::move(runs[next_run]));
      delta = std::move(runs[next_run++]);
    }
    delta.channel = event.channel;
    if (event.channel == OutputChannel::kToolCall) {
      ++num_tool_calls_;
      delta.tool_call = AnswerToolCall{std::move(event.name), std::move(event.arguments_json)};
    } else {
      delta.text = std::move(event.text);
    }
    deltas.push_back(std::move(delta));
  }
  for (; next_run < runs.size(); ++next_run) deltas.push_back(std::move(runs[next_run]));
  return deltas;
}

absl::string_view AnswerBuilder::ShownBytes(int32_t id) const {
  const std::vector<int32_t>& stops = options_.stop_token_ids;
  if (pieces_->IsSpecial(id) || std::binary_search(stops.begin(), stops.end(), id)) return {};
  return pieces_->Bytes(id);
}

}  // namespace m1
