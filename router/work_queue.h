// The order in which waiting requests are started.
//
// Classes: a priority is a head start. Of the classes the one goes first whose oldest waiting
// request would have come first had every point of priority made it arrive one ageing period
// earlier. So a waiting request overtakes in time whatever its priority is, and which of two
// classes goes first changes with arrivals and departures only, not with the clock.
//
// Within a class: what was started before (its worker dropped it or died) by arrival; then the
// client that was served least, in tokens of prompts and answers, and of its requests the oldest. A
// client that comes, or comes back, begins at the level of a client that always had its equal
// share: being away saves nothing up, and as the level rises with all service, newcomers without
// end do not starve who was served before.
//
// Only new requests are refused when the queue is full: what was accepted once is never lost to it.
// A request takes one place as long as any of its samples waits, so that nobody fills the queue
// with one request, nor has many in it for one place.
#pragma once

#include <cstddef>
#include <cstdint>
#include <map>
#include <optional>
#include <set>
#include <string>
#include <tuple>
#include <utility>

#include "absl/container/flat_hash_map.h"
#include "absl/time/time.h"

namespace m1 {

// A sample of a request in the eyes of the queue, from its arrival to its end.
struct Ticket {
  int64_t arrival_order = 0;  // its name; grows with arrival_time
  absl::Time arrival_time;
  int32_t priority = 0;
  std::string client;
  int64_t request = 0;  // that it is a sample of
};

// Lower goes first.
absl::Time HeadStart(absl::Time arrival_time, int32_t priority, absl::Duration ageing);

// Not thread-safe, no clock.
class WorkQueue {
 public:
  // `ageing`: what a point of priority is worth, above zero.
  WorkQueue(size_t capacity, absl::Duration ageing) : capacity_(capacity), ageing_(ageing) {}

  // A new sample; false when its request needs a place and the queue is full.
  bool TryPush(const Ticket& ticket);
  // One that was taken before. With `to_head` to the head of its class, else where it was.
  void Return(const Ticket& ticket, bool to_head = true);
  // Out of the line, because it starts or ends. False when it did not wait.
  bool Remove(int64_t arrival_order);
  // A request of this ticket was given so many tokens of service.
  void Charge(const Ticket& ticket, int64_t num_tokens);
  // Its request is over; it does not wait.
  void Leave(const Ticket& ticket);

  // Who is to be started next.
  std::optional<int64_t> Next() const;
  // Nobody can run it now: it waits on, but holds back nobody, until BringBack.
  void SetAside(int64_t arrival_order);
  void BringBack();

  // By arrival.
  const std::map<int64_t, Ticket>& waiting() const { return waiting_; }
  size_t size() const { return waiting_.size(); }
  size_t capacity() const { return capacity_; }

 private:
  struct Client {
    double service = 0;         // tokens
    int64_t num_in_flight = 0;  // requests between TryPush and Leave
    std::set<int64_t> waiting;
  };
  using Turn = std::tuple<double, int64_t, std::string>;  // service, oldest request, client
  struct PriorityClass {
    absl::flat_hash_map<std::string, Client> clients;
    std::set<Turn> turns;        // of clients with waiting requests
    std::set<int64_t> returned;  // ahead of all clients
    std::set<int64_t> all;       // that wait
    double level = 0;            // where a client begins
  };

  static std::optional<Turn> TurnOf(const PriorityClass& of, const std::string& client);
  // Changes a client and keeps its turn in order.
  template <typename Change>
  void Update(PriorityClass& of, const std::string& client, const Change& change);
  void Insert(const Ticket& ticket, bool is_returned);
  void TakeOut(const Ticket& ticket);

  const size_t capacity_;
  const absl::Duration ageing_;
  std::map<int64_t, Ticket> waiting_;
  absl::flat_hash_map<int64_t, int> places_;  // by request: how many of it wait
  std::map<int64_t, bool> aside_;             // of waiting_; whether it had been returned
  std::map<int32_t, PriorityClass, std::greater<>> classes_;
};

}  // namespace m1
