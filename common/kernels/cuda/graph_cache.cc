#include "common/kernels/cuda/graph_cache.h"

#include <iterator>
#include <utility>

namespace m1::cuda {

GraphCache::~GraphCache() {
  for (const Entry& entry : entries_) FreeGraph(entry.graph);
}

LaunchError GraphCache::Run(const LaunchList& list, Stream stream) {
  if (max_graphs_ == 0 || list.launches().size() < kMinLaunches) return RunList(list, stream);
  Graph graph = Find(list);
  if (graph == nullptr && IsSecondSight(list.fingerprint())) graph = Make(list);
  return graph == nullptr ? RunList(list, stream) : RunGraph(graph, stream);
}

bool GraphCache::IsSecondSight(uint64_t fingerprint) {
  return std::exchange(seen_[fingerprint % seen_.size()], fingerprint) == fingerprint;
}

Graph GraphCache::Find(const LaunchList& list) {
  const auto found = by_fingerprint_.find(list.fingerprint());
  if (found == by_fingerprint_.end()) return nullptr;
  const auto entry = found->second;
  if (!(entry->list == list)) {  // as if neither had been seen
    seen_[list.fingerprint() % seen_.size()] = ~list.fingerprint();
    Drop(entry);
    return nullptr;
  }
  entries_.splice(entries_.begin(), entries_, entry);
  return entry->graph;
}

Graph GraphCache::Make(const LaunchList& list) {
  Graph graph = nullptr;
  if (NewGraph(list, &graph) != 0) return nullptr;
  if (entries_.size() == max_graphs_) Drop(std::prev(entries_.end()));
  entries_.push_front({list, graph});
  by_fingerprint_[list.fingerprint()] = entries_.begin();
  return graph;
}

void GraphCache::Drop(std::list<Entry>::iterator entry) {
  FreeGraph(entry->graph);
  by_fingerprint_.erase(entry->list.fingerprint());
  entries_.erase(entry);
}

}  // namespace m1::cuda
