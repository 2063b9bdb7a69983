#include "common/security/tls_identity.h"

#include <openssl/err.h>
#include <openssl/pem.h>
#include <openssl/ssl.h>
#include <openssl/x509_vfy.h>
#include <openssl/x509v3.h>

#include <algorithm>
#include <ctime>
#include <memory>
#include <utility>

#include "absl/strings/str_cat.h"

#include "common/base/status_macros.h"
#include "common/security/openssl_pointers.h"

namespace m1 {
namespace {

// gRPC looks at OpenSSL's queue of errors of its threads: ours leave nothing there.
struct ErrorQueueCleaner {
  ~ErrorQueueCleaner() { ERR_clear_error(); }
};

BioPointer Open(const std::string& text) {
  return BioPointer(BIO_new_mem_buf(text.data(), static_cast<int>(text.size())));
}

// OpenSSL would ask at the terminal.
int NoPassword(char*, int, int, void*) { return -1; }

using Certificates = std::vector<X509Pointer>;

absl::StatusOr<Certificates> ReadCertificates(absl::string_view flag, const std::string& pem) {
  Certificates certificates;
  const BioPointer bio = Open(pem);
  while (X509* certificate = PEM_read_bio_X509(bio.get(), nullptr, NoPassword, nullptr)) {
    certificates.emplace_back(certificate);
  }
  const bool at_end = ERR_GET_REASON(ERR_peek_last_error()) == PEM_R_NO_START_LINE;
  if (!certificates.empty() && at_end) return certificates;
  return absl::InvalidArgumentError(absl::StrCat(
      "--", flag, ": certificate ", certificates.size() + 1, " is no PEM certificate"));
}

absl::Time ToTime(const ASN1_TIME* asn1) {
  std::tm fields{};
  if (asn1 == nullptr || ASN1_TIME_to_tm(asn1, &fields) != 1) return absl::InfinitePast();
  return absl::FromTM(fields, absl::UTCTimeZone());
}

std::vector<std::string> UrisOf(const X509* certificate) {
  std::vector<std::string> uris;
  const GeneralNamesPointer names(static_cast<GENERAL_NAMES*>(
      X509_get_ext_d2i(certificate, NID_subject_alt_name, nullptr, nullptr)));
  for (int i = 0; i < sk_GENERAL_NAME_num(names.get()); ++i) {
    const GENERAL_NAME* name = sk_GENERAL_NAME_value(names.get(), i);
    if (name->type != GEN_URI) continue;
    const ASN1_IA5STRING* uri = name->d.uniformResourceIdentifier;
    uris.emplace_back(reinterpret_cast<const char*>(ASN1_STRING_get0_data(uri)),
                      static_cast<size_t>(ASN1_STRING_length(uri)));
  }
  return uris;
}

absl::Status CheckKey(const std::string& pem, X509* certificate) {
  const BioPointer bio = Open(pem);
  const EvpPkeyPointer key(PEM_read_bio_PrivateKey(bio.get(), nullptr, NoPassword, nullptr));
  if (key == nullptr) {
    return absl::InvalidArgumentError("--tls_key: no PEM private key, or one with a password");
  }
  if (X509_check_private_key(certificate, key.get()) != 1) {
    return absl::InvalidArgumentError("--tls_key is not the key of the certificate in --tls_cert");
  }
  return absl::OkStatus();
}

std::string ToText(absl::Time time) {
  return absl::FormatTime(absl::RFC3339_sec, time, absl::UTCTimeZone());
}

// "CN=router of CN=authority", each cut where it gets long.
std::string NameOf(const X509* certificate) {
  constexpr int kMaxNameBytes = 64;
  char subject[kMaxNameBytes] = "";
  char issuer[kMaxNameBytes] = "";
  X509_NAME_oneline(X509_get_subject_name(certificate), subject, kMaxNameBytes);
  X509_NAME_oneline(X509_get_issuer_name(certificate), issuer, kMaxNameBytes);
  return absl::StrCat(subject, " of ", issuer);
}

// What gRPC does with them before it listens or connects, when it would be too late to say no.
absl::Status CheckStrength(const Certificates& chain) {
  const SslContextPointer context(SSL_CTX_new(TLS_method()));
  for (size_t i = 0; i < chain.size(); ++i) {
    X509* certificate = chain[i].get();
    const bool taken = i == 0 ? SSL_CTX_use_certificate(context.get(), certificate) == 1
                              : SSL_CTX_add1_chain_cert(context.get(), certificate) == 1;
    if (taken) continue;
    const char* reason = ERR_reason_error_string(ERR_peek_last_error());
    return absl::InvalidArgumentError(
        absl::StrCat("--tls_cert: certificate ", i + 1, ", ", NameOf(certificate),
                     ", is not for TLS: ", reason == nullptr ? "unknown reason" : reason));
  }
  return absl::OkStatus();
}

// As peers verify the chain: with gRPC's flags and the level of security of a TLS context. Returns
// the end of the authorities that it ends in.
absl::StatusOr<absl::Time> VerifyChain(const Certificates& chain, const Certificates& authorities,
                                       absl::Time now) {
  const X509StorePointer store(X509_STORE_new());
  for (const X509Pointer& authority : authorities)
    X509_STORE_add_cert(store.get(), authority.get());
  const X509StackPointer intermediates(sk_X509_new_null());
  for (const X509Pointer& certificate : chain) sk_X509_push(intermediates.get(), certificate.get());
  const X509StoreContextPointer context(X509_STORE_CTX_new());
  X509_STORE_CTX_init(context.get(), store.get(), chain.front().get(), intermediates.get());
  X509_VERIFY_PARAM* param = X509_STORE_CTX_get0_param(context.get());
  X509_VERIFY_PARAM_set_flags(param, X509_V_FLAG_PARTIAL_CHAIN | X509_V_FLAG_TRUSTED_FIRST);
  X509_VERIFY_PARAM_set_time(param, absl::ToTimeT(now));
  const SslContextPointer tls(SSL_CTX_new(TLS_method()));
  X509_VERIFY_PARAM_set_auth_level(param, SSL_CTX_get_security_level(tls.get()));
  if (X509_verify_cert(context.get()) != 1) {
    const X509* failed = X509_STORE_CTX_get_current_cert(context.get());
    return absl::InvalidArgumentError(
        absl::StrCat("--tls_cert does not lead to an authority of --tls_ca: ",
                     NameOf(failed == nullptr ? chain.front().get() : failed), ": ",
                     X509_verify_cert_error_string(X509_STORE_CTX_get_error(context.get()))));
  }
  const STACK_OF(X509)* verified = X509_STORE_CTX_get0_chain(context.get());
  const int last = sk_X509_num(verified) - 1;
  absl::Time end = absl::InfiniteFuture();
  for (int i = std::min(X509_STORE_CTX_get_num_untrusted(context.get()), last); i <= last; ++i) {
    end = std::min(end, ToTime(X509_get0_notAfter(sk_X509_value(verified, i))));
  }
  return end;
}

// Of all certificates of the chain. Returns its end.
absl::StatusOr<absl::Time> CheckValidity(const Certificates& chain, absl::Time now) {
  absl::Time start = absl::InfinitePast();
  absl::Time end = absl::InfiniteFuture();
  for (const X509Pointer& certificate : chain) {
    start = std::max(start, ToTime(X509_get0_notBefore(certificate.get())));
    end = std::min(end, ToTime(X509_get0_notAfter(certificate.get())));
  }
  if (end <= now) {
    return absl::InvalidArgumentError(absl::StrCat("--tls_cert has expired at ", ToText(end)));
  }
  if (start > now) {
    return absl::InvalidArgumentError(
        absl::StrCat("--tls_cert is not valid yet, but from ", ToText(start)));
  }
  return end;
}

}  // namespace

bool TlsIdentity::HasRole(Role role) const {
  return std::find(uris.begin(), uris.end(), RoleUri(role)) != uris.end();
}

absl::StatusOr<TlsIdentity> ParseTlsIdentity(TlsFiles files, absl::Time now) {
  const ErrorQueueCleaner cleaner;
  ERR_clear_error();
  M1_ASSIGN_OR_RETURN(const Certificates chain, ReadCertificates("tls_cert", files.certificates));
  M1_ASSIGN_OR_RETURN(const Certificates authorities,
                      ReadCertificates("tls_ca", files.authorities));
  M1_RETURN_IF_ERROR(CheckKey(files.private_key, chain.front().get()));
  TlsIdentity identity;
  M1_ASSIGN_OR_RETURN(identity.expires_at, CheckValidity(chain, now));
  M1_RETURN_IF_ERROR(CheckStrength(chain));
  M1_ASSIGN_OR_RETURN(identity.authority_expires_at, VerifyChain(chain, authorities, now));
  identity.uris = UrisOf(chain.front().get());
  identity.files = std::move(files);
  return identity;
}

}  // namespace m1
