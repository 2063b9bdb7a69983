// gRPC's C++ API has neither certificates that change and are checked before they are taken, nor a
// look at the calls of a plaintext listener; its C API has both.
#include "common/rpc/server_credentials.h"

#include <grpc/grpc_security.h>

#include <string>

#include "absl/strings/string_view.h"

#include "common/base/mutex.h"

namespace m1 {
namespace {

absl::string_view View(const grpc_slice& slice) {
  return {reinterpret_cast<const char*>(GRPC_SLICE_START_PTR(slice)), GRPC_SLICE_LENGTH(slice)};
}

// Of one listener; gRPC deletes it with its last reference to the credentials.
struct Listener {
  explicit Listener(const Security* of) : security(of) {}

  const Security* const security;
  Mutex mutex;  // whether gRPC fetches one at a time is not written
  std::shared_ptr<const TlsIdentity> served ABSL_GUARDED_BY(mutex);
};

// Before each handshake. gRPC does not tell whether it could use what it got, and goes on with what
// it had: so ParseTlsIdentity refuses what gRPC would.
grpc_ssl_certificate_config_reload_status FetchCertificate(
    void* state, grpc_ssl_server_certificate_config** config) {
  auto* listener = static_cast<Listener*>(state);
  std::shared_ptr<const TlsIdentity> identity = listener->security->identity();
  MutexLock lock(&listener->mutex);
  if (identity == listener->served) return GRPC_SSL_CERTIFICATE_CONFIG_RELOAD_UNCHANGED;
  const TlsFiles& files = identity->files;
  const grpc_ssl_pem_key_cert_pair pair = {files.private_key.c_str(), files.certificates.c_str()};
  *config = grpc_ssl_server_certificate_config_create(files.authorities.c_str(), &pair, 1);
  if (*config == nullptr) return GRPC_SSL_CERTIFICATE_CONFIG_RELOAD_FAIL;  // the next one tries it
  listener->served = std::move(identity);
  return GRPC_SSL_CERTIFICATE_CONFIG_RELOAD_NEW;
}

// Before each call.
void AuthorizeCall(void* state, grpc_auth_context* context, const grpc_metadata* metadata,
                   size_t num_metadata, grpc_process_auth_metadata_done_cb done, void* user_data) {
  CallFacts call;
  for (size_t i = 0; i < num_metadata; ++i) {
    const absl::string_view key = View(metadata[i].key);
    if (key == ":path") call.method = View(metadata[i].value);
    if (key == "authorization") call.authorization.push_back(View(metadata[i].value));
  }
  grpc_auth_property_iterator properties =
      grpc_auth_context_find_properties_by_name(context, GRPC_PEER_URI_PROPERTY_NAME);
  while (const grpc_auth_property* uri = grpc_auth_property_iterator_next(&properties)) {
    call.peer_uris.emplace_back(uri->value, uri->value_length);
  }
  const absl::Status status = static_cast<Listener*>(state)->security->Authorize(call);
  const std::string message(status.message());
  done(user_data, nullptr, 0, nullptr, 0, static_cast<grpc_status_code>(status.code()),
       status.ok() ? nullptr : message.c_str());
}

class ListenerCredentials final : public grpc::ServerCredentials {
 public:
  explicit ListenerCredentials(const Security* security) {
    auto* listener = new Listener(security);
    if (security->listens_with_tls()) {
      credentials_ = grpc_ssl_server_credentials_create_with_options(
          grpc_ssl_server_credentials_create_options_using_config_fetcher(
              security->asks_for_certificates()
                  ? GRPC_SSL_REQUEST_AND_REQUIRE_CLIENT_CERTIFICATE_AND_VERIFY
                  : GRPC_SSL_DONT_REQUEST_CLIENT_CERTIFICATE,
              FetchCertificate, listener));
    } else {
      credentials_ = grpc_insecure_server_credentials_create();
    }
    grpc_server_credentials_set_auth_metadata_processor(
        credentials_, {.process = AuthorizeCall,
                       .destroy = [](void* state) { delete static_cast<Listener*>(state); },
                       .state = listener});
  }
  ~ListenerCredentials() override { grpc_server_credentials_release(credentials_); }
  ListenerCredentials(const ListenerCredentials&) = delete;
  ListenerCredentials& operator=(const ListenerCredentials&) = delete;

  // Ours has its own, and nobody sets another.
  void SetAuthMetadataProcessor(const std::shared_ptr<grpc::AuthMetadataProcessor>&) override {}

 private:
  int AddPortToServer(const std::string& address, grpc_server* server) override {
    return grpc_server_add_http2_port(server, address.c_str(), credentials_);
  }

  grpc_server_credentials* credentials_ = nullptr;
};

}  // namespace

std::shared_ptr<grpc::ServerCredentials> MakeServerCredentials(const Security* security) {
  return std::make_shared<ListenerCredentials>(security);
}

}  // namespace m1
