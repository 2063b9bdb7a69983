// Lists of launches that come again, as CUDA graphs: one call of the driver for all of a layer's
// kernels, which then follow one another without the host. A graph runs in place of a list that is
// equal to the one it was made of, so what runs is the same with and without. Thread-compatible.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <list>

#include "absl/container/flat_hash_map.h"

#include "common/kernels/cuda/launch_list.h"
#include "common/kernels/cuda/runtime.h"

namespace m1::cuda {

class GraphCache {
 public:
  // Of M1's 80 layers, for steps of 25 different numbers of rows.
  static constexpr size_t kMaxGraphs = 2048;
  // Shorter lists gain nothing.
  static constexpr size_t kMinLaunches = 3;

  explicit GraphCache(size_t max_graphs = kMaxGraphs) : max_graphs_(max_graphs) {}
  ~GraphCache();
  GraphCache(const GraphCache&) = delete;
  GraphCache& operator=(const GraphCache&) = delete;

  // Enqueues what the list says. The second time that a list comes, a graph is made of it.
  [[nodiscard]] LaunchError Run(const LaunchList& list, Stream stream);

 private:
  struct Entry {
    LaunchList list;
    Graph graph = nullptr;
  };

  // Whether the fingerprint was here not long ago.
  bool IsSecondSight(uint64_t fingerprint);
  // The graph of an equal list, or null.
  Graph Find(const LaunchList& list);
  // Null where the driver makes none; the list runs as well without.
  Graph Make(const LaunchList& list);
  void Drop(std::list<Entry>::iterator entry);

  const size_t max_graphs_;
  std::list<Entry> entries_;  // the last used first
  absl::flat_hash_map<uint64_t, std::list<Entry>::iterator> by_fingerprint_;
  std::array<uint64_t, 4096> seen_{};
};

}  // namespace m1::cuda
