#include "common/rpc/identity_proto.h"

namespace m1 {

v1::WorkerIdentity ToProto(const WorkerIdentity& identity) {
  v1::WorkerIdentity proto;
  proto.set_fingerprint(identity.fingerprint);
  proto.set_weight_format(identity.weight_format);
  proto.set_activation_dtype(identity.activation_dtype);
  proto.set_device_kind(identity.device_kind);
  proto.set_numerics_revision(identity.numerics_revision);
  proto.set_protocol_revision(identity.protocol_revision);
  return proto;
}

WorkerIdentity FromProto(const v1::WorkerIdentity& proto) {
  return {proto.fingerprint(), proto.weight_format(),     proto.activation_dtype(),
          proto.device_kind(), proto.numerics_revision(), proto.protocol_revision()};
}

}  // namespace m1
