#include "common/rpc/worker_credentials.h"

#include <grpcpp/security/tls_certificate_provider.h>
#include <grpcpp/security/tls_certificate_verifier.h>
#include <grpcpp/security/tls_credentials_options.h>

#include <algorithm>
#include <functional>
#include <string>
#include <vector>

namespace m1 {
namespace {

namespace tls = grpc::experimental;

// After gRPC has verified the certificate's chain.
class RoleVerifier final : public tls::ExternalCertificateVerifier {
 public:
  explicit RoleVerifier(Role role) : uri_(RoleUri(role)) {}

  bool Verify(tls::TlsCustomVerificationCheckRequest* request,
              std::function<void(grpc::Status)> /*callback*/, grpc::Status* status) override {
    const std::vector<grpc::string_ref> uris = request->uri_names();
    if (std::find(uris.begin(), uris.end(), grpc::string_ref(uri_)) == uris.end()) {
      *status = grpc::Status(grpc::StatusCode::UNAUTHENTICATED,
                             "the server's certificate has no alternative name URI:" + uri_);
    }
    return true;
  }
  void Cancel(tls::TlsCustomVerificationCheckRequest* /*request*/) override {}

 private:
  const std::string uri_;
};

}  // namespace

std::shared_ptr<grpc::ChannelCredentials> MakeWorkerCredentials(const TlsIdentity* identity,
                                                                Role server_role) {
  if (identity == nullptr) return nullptr;
  tls::TlsChannelCredentialsOptions options;
  options.set_certificate_provider(std::make_shared<tls::StaticDataCertificateProvider>(
      identity->files.authorities,
      std::vector<tls::IdentityKeyCertPair>{
          {identity->files.private_key, identity->files.certificates}}));
  options.watch_root_certs();
  options.watch_identity_key_cert_pairs();
  options.set_certificate_verifier(
      tls::ExternalCertificateVerifier::Create<RoleVerifier>(server_role));
  options.set_check_call_host(false);
  return tls::TlsCredentials(options);
}

}  // namespace m1
