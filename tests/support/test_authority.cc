#include "tests/support/test_authority.h"

#include <openssl/bio.h>
#include <openssl/ec.h>
#include <openssl/evp.h>
#include <openssl/pem.h>
#include <openssl/rsa.h>
#include <openssl/x509v3.h>

#include <atomic>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"

#include "common/base/check.h"
#include "common/security/openssl_pointers.h"

namespace m1 {
namespace {

std::string TextOf(BIO* bio) {
  char* data = nullptr;
  const long size = BIO_get_mem_data(bio, &data);  // NOLINT(google-runtime-int): OpenSSL's
  return {data, static_cast<size_t>(size)};
}

std::string ToPem(X509* certificate) {
  const BioPointer bio(BIO_new(BIO_s_mem()));
  M1_CHECK(PEM_write_bio_X509(bio.get(), certificate) == 1);
  return TextOf(bio.get());
}

std::string ToPem(EVP_PKEY* key, const EVP_CIPHER* cipher = nullptr,
                  const char* password = nullptr) {
  const BioPointer bio(BIO_new(BIO_s_mem()));
  M1_CHECK(PEM_write_bio_PKCS8PrivateKey(bio.get(), key, cipher, password,
                                         password == nullptr ? 0 : 8, nullptr, nullptr) == 1);
  return TextOf(bio.get());
}

void AddExtension(X509* certificate, int nid, const std::string& value) {
  const X509ExtensionPointer extension(X509V3_EXT_conf_nid(nullptr, nullptr, nid, value.c_str()));
  M1_CHECK(extension != nullptr && X509_add_ext(certificate, extension.get(), -1) == 1);
}

X509Pointer NewCertificate(EVP_PKEY* key, const std::string& name, absl::Time starts_at,
                           absl::Time expires_at) {
  static std::atomic<int> serial{1};
  X509Pointer certificate(X509_new());
  X509_set_version(certificate.get(), 2);
  ASN1_INTEGER_set(X509_get_serialNumber(certificate.get()), serial++);
  ASN1_TIME_set(X509_getm_notBefore(certificate.get()), absl::ToTimeT(starts_at));
  ASN1_TIME_set(X509_getm_notAfter(certificate.get()), absl::ToTimeT(expires_at));
  X509_NAME_add_entry_by_txt(X509_get_subject_name(certificate.get()), "CN", MBSTRING_ASC,
                             reinterpret_cast<const unsigned char*>(name.c_str()), -1, -1, 0);
  X509_set_pubkey(certificate.get(), key);
  return certificate;
}

void Sign(X509* certificate, X509* issuer, EVP_PKEY* issuer_key) {
  X509_set_issuer_name(certificate, X509_get_subject_name(issuer));
  M1_CHECK(X509_sign(certificate, issuer_key, EVP_sha256()) > 0);
}

}  // namespace

struct TestAuthority::Keys {
  EvpPkeyPointer key{EVP_EC_gen("P-256")};
  X509Pointer certificate;
  std::string pem;
};

TestAuthority::TestAuthority(const AuthorityRequest& request) : keys_(std::make_unique<Keys>()) {
  keys_->certificate = NewCertificate(keys_->key.get(), request.name, absl::Now() - absl::Hours(1),
                                      request.expires_at);
  AddExtension(keys_->certificate.get(), NID_basic_constraints, "critical,CA:TRUE");
  const Keys& issuer = request.issuer == nullptr ? *keys_ : *request.issuer->keys_;
  Sign(keys_->certificate.get(), issuer.certificate.get(), issuer.key.get());
  keys_->pem = ToPem(keys_->certificate.get());
}

TestAuthority::~TestAuthority() = default;

const std::string& TestAuthority::pem() const { return keys_->pem; }

IssuedCertificate TestAuthority::Issue(const CertificateRequest& request) const {
  const EvpPkeyPointer key(request.rsa_bits > 0 ? EVP_RSA_gen(request.rsa_bits)
                                                : EVP_EC_gen("P-256"));
  const X509Pointer certificate =
      NewCertificate(key.get(), "test process", request.starts_at, request.expires_at);
  std::vector<std::string> names = {"IP:127.0.0.1"};
  for (const std::string& uri : request.uris) names.push_back(absl::StrCat("URI:", uri));
  AddExtension(certificate.get(), NID_subject_alt_name, absl::StrJoin(names, ","));
  Sign(certificate.get(), keys_->certificate.get(), keys_->key.get());
  return {ToPem(certificate.get()), ToPem(key.get())};
}

std::string WithPassword(const std::string& private_key) {
  const BioPointer bio(BIO_new_mem_buf(private_key.data(), static_cast<int>(private_key.size())));
  const EvpPkeyPointer key(PEM_read_bio_PrivateKey(bio.get(), nullptr, nullptr, nullptr));
  return ToPem(key.get(), EVP_aes_256_cbc(), "password");
}

}  // namespace m1
