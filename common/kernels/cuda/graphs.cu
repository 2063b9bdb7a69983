#include "common/kernels/cuda/launch_kernel.h"
#include "common/kernels/cuda/runtime.h"

namespace m1::cuda {
namespace {

// A graph whose nodes follow one another.
class Chain {
 public:
  explicit Chain(cudaGraph_t graph) : graph_(graph) {}

  cudaError_t Add(const PinnedCopy& copy) {
    if (copy.bytes == 0) return cudaSuccess;
    return Append([&](cudaGraphNode_t* node) {
      return cudaGraphAddMemcpyNode1D(node, graph_, &last_, num_last(), copy.device, copy.pinned,
                                      copy.bytes, cudaMemcpyHostToDevice);
    });
  }

  cudaError_t Add(const void* kernel, const LaunchGrid& grid, const void* args) {
    void* pointers[] = {const_cast<void*>(args)};
    cudaKernelNodeParams params{};
    params.func = const_cast<void*>(kernel);
    params.gridDim = BlocksOf(grid);
    params.blockDim = dim3(static_cast<unsigned>(grid.threads));
    params.sharedMemBytes = static_cast<unsigned>(grid.shared_bytes);
    params.kernelParams = pointers;
    return Append([&](cudaGraphNode_t* node) {
      return cudaGraphAddKernelNode(node, graph_, &last_, num_last(), &params);
    });
  }

 private:
  size_t num_last() const { return last_ == nullptr ? 0 : 1; }

  template <typename AddNode>
  cudaError_t Append(AddNode add) {
    cudaGraphNode_t node = nullptr;
    const cudaError_t error = add(&node);
    if (error == cudaSuccess) last_ = node;
    return error;
  }

  const cudaGraph_t graph_;
  cudaGraphNode_t last_ = nullptr;
};

cudaError_t Fill(cudaGraph_t graph, const LaunchList& list) {
  Chain chain(graph);
  cudaError_t error = chain.Add(list.copy());
  for (const LaunchList::Launch& launch : list.launches()) {
    if (error != cudaSuccess) return error;
    error = chain.Add(launch.kernel, launch.grid, list.args(launch));
  }
  return error;
}

}  // namespace

LaunchError RunList(const LaunchList& list, Stream stream) {
  if (const PinnedCopy& copy = list.copy(); copy.bytes > 0) {
    const LaunchError error = CopyFromPinned(copy.device, copy.pinned, copy.bytes, stream);
    if (error != cudaSuccess) return error;
  }
  for (const LaunchList::Launch& launch : list.launches()) {
    const LaunchError error = LaunchNow(launch.kernel, launch.grid, list.args(launch), stream);
    if (error != cudaSuccess) return error;
  }
  return cudaSuccess;
}

LaunchError NewGraph(const LaunchList& list, Graph* graph) {
  cudaGraph_t nodes = nullptr;
  cudaError_t error = cudaGraphCreate(&nodes, 0);
  if (error != cudaSuccess) return Forget(error);
  error = Fill(nodes, list);
  if (error == cudaSuccess) error = cudaGraphInstantiate(graph, nodes, 0);
  cudaGraphDestroy(nodes);
  return Forget(error);
}

LaunchError RunGraph(Graph graph, Stream stream) { return Forget(cudaGraphLaunch(graph, stream)); }

void FreeGraph(Graph graph) {
  if (graph != nullptr) cudaGraphExecDestroy(graph);
}

}  // namespace m1::cuda
