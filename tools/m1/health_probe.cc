#include "tools/m1/health_probe.h"

#include <grpcpp/client_context.h>
#include <grpcpp/completion_queue.h>
#include <grpcpp/generic/generic_stub.h>
#include <grpcpp/support/byte_buffer.h>

#include <string>
#include <vector>

#include "common/rpc/channel.h"
#include "common/rpc/worker_credentials.h"

namespace m1 {
namespace {

// HealthCheckResponse{status: SERVING} on the wire: field 1, varint, value 1.
constexpr char kServing[] = {0x08, 0x01};

std::string Flatten(const grpc::ByteBuffer& buffer) {
  std::vector<grpc::Slice> slices;
  std::string bytes;
  if (!buffer.Valid() || !buffer.Dump(&slices).ok()) return bytes;
  for (const grpc::Slice& slice : slices) {
    bytes.append(reinterpret_cast<const char*>(slice.begin()), slice.size());
  }
  return bytes;
}

}  // namespace

HealthProbe::HealthProbe(const std::string& address, const TlsIdentity* identity) {
  ChannelOptions options;
  options.credentials = MakeWorkerCredentials(identity, Role::kRouter);
  channel_ = MakeChannel(address, options);
}

bool HealthProbe::IsServing(absl::Duration timeout) {
  grpc::GenericStub stub(channel_);
  grpc::ClientContext context;
  context.set_deadline(absl::ToChronoTime(absl::Now() + timeout));
  grpc::CompletionQueue queue;
  const grpc::Slice empty;  // HealthCheckRequest{service: ""}
  const grpc::ByteBuffer request(&empty, 1);
  auto call = stub.PrepareUnaryCall(&context, "/grpc.health.v1.Health/Check", request, &queue);
  call->StartCall();
  grpc::ByteBuffer response;
  grpc::Status status;
  call->Finish(&response, &status, nullptr);
  void* tag = nullptr;
  bool ok = false;
  queue.Next(&tag, &ok);
  queue.Shutdown();
  return ok && status.ok() && Flatten(response) == std::string(kServing, sizeof(kServing));
}

}  // namespace m1
