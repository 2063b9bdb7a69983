#include "router/work_queue.h"

#include "common/base/check.h"

namespace m1 {

absl::Time HeadStart(absl::Time arrival_time, int32_t priority, absl::Duration ageing) {
  return arrival_time - ageing * priority;
}

std::optional<WorkQueue::Turn> WorkQueue::TurnOf(const PriorityClass& of,
                                                 const std::string& client) {
  const auto found = of.clients.find(client);
  if (found == of.clients.end() || found->second.waiting.empty()) return std::nullopt;
  return Turn(found->second.service, *found->second.waiting.begin(), client);
}

template <typename Change>
void WorkQueue::Update(PriorityClass& of, const std::string& client, const Change& change) {
  if (const auto turn = TurnOf(of, client)) of.turns.erase(*turn);
  change(of.clients[client]);
  if (const auto turn = TurnOf(of, client)) of.turns.insert(*turn);
}

bool WorkQueue::TryPush(const Ticket& ticket) {
  if (places_.size() >= capacity_ && !places_.contains(ticket.request)) return false;
  PriorityClass& of = classes_[ticket.priority];
  Update(of, ticket.client, [&](Client& client) {
    if (client.num_in_flight++ == 0) client.service = of.level;
  });
  waiting_.emplace(ticket.arrival_order, ticket);
  ++places_[ticket.request];
  Insert(ticket, /*is_returned=*/false);
  return true;
}

void WorkQueue::Return(const Ticket& ticket, bool to_head) {
  if (!waiting_.emplace(ticket.arrival_order, ticket).second) return;
  ++places_[ticket.request];
  Insert(ticket, /*is_returned=*/to_head);
}

bool WorkQueue::Remove(int64_t arrival_order) {
  const auto found = waiting_.find(arrival_order);
  if (found == waiting_.end()) return false;
  if (aside_.erase(arrival_order) == 0) TakeOut(found->second);
  const auto place = places_.find(found->second.request);
  if (--place->second == 0) places_.erase(place);
  waiting_.erase(found);
  return true;
}

void WorkQueue::Charge(const Ticket& ticket, int64_t num_tokens) {
  PriorityClass& of = classes_[ticket.priority];
  const auto tokens = static_cast<double>(num_tokens);
  Update(of, ticket.client, [&](Client& client) { client.service += tokens; });
  of.level += tokens / static_cast<double>(of.clients.size());
}

void WorkQueue::Leave(const Ticket& ticket) {
  M1_CHECK(!waiting_.contains(ticket.arrival_order));
  const auto of = classes_.find(ticket.priority);
  M1_CHECK(of != classes_.end());
  const auto client = of->second.clients.find(ticket.client);
  M1_CHECK(client != of->second.clients.end());
  if (--client->second.num_in_flight == 0) of->second.clients.erase(client);
  if (of->second.clients.empty()) classes_.erase(of);
}

std::optional<int64_t> WorkQueue::Next() const {
  const PriorityClass* first = nullptr;
  absl::Time best = absl::InfiniteFuture();
  for (const auto& [priority, of] : classes_) {
    if (of.all.empty()) continue;
    const absl::Time own = HeadStart(waiting_.at(*of.all.begin()).arrival_time, priority, ageing_);
    if (first != nullptr && own >= best) continue;
    first = &of;
    best = own;
  }
  if (first == nullptr) return std::nullopt;
  if (!first->returned.empty()) return *first->returned.begin();
  return std::get<1>(*first->turns.begin());
}

void WorkQueue::SetAside(int64_t arrival_order) {
  const auto found = waiting_.find(arrival_order);
  if (found == waiting_.end() || aside_.contains(arrival_order)) return;
  const Ticket& ticket = found->second;
  aside_[arrival_order] = classes_[ticket.priority].returned.contains(arrival_order);
  TakeOut(ticket);
}

void WorkQueue::BringBack() {
  for (const auto& [arrival_order, is_returned] : aside_) {
    Insert(waiting_.at(arrival_order), is_returned);
  }
  aside_.clear();
}

void WorkQueue::Insert(const Ticket& ticket, bool is_returned) {
  PriorityClass& of = classes_[ticket.priority];
  of.all.insert(ticket.arrival_order);
  if (is_returned) {
    of.returned.insert(ticket.arrival_order);
  } else {
    Update(of, ticket.client, [&](Client& client) { client.waiting.insert(ticket.arrival_order); });
  }
}

void WorkQueue::TakeOut(const Ticket& ticket) {
  PriorityClass& of = classes_[ticket.priority];
  of.all.erase(ticket.arrival_order);
  of.returned.erase(ticket.arrival_order);
  Update(of, ticket.client, [&](Client& client) { client.waiting.erase(ticket.arrival_order); });
}

}  // namespace m1
