// Certificates for tests, made with OpenSSL.
#pragma once

#include <memory>
#include <string>
#include <vector>

#include "absl/time/clock.h"
#include "absl/time/time.h"

namespace m1 {

struct CertificateRequest {
  std::vector<std::string> uris = {};  // among the alternative names
  absl::Time expires_at = absl::Now() + absl::Hours(24);
  absl::Time starts_at = absl::Now() - absl::Hours(1);
  unsigned int rsa_bits = 0;  // 0: a key of P-256
};

// Both PEM.
struct IssuedCertificate {
  std::string certificate;
  std::string private_key;
};

class TestAuthority;

struct AuthorityRequest {
  std::string name = "test authority";
  absl::Time expires_at = absl::Now() + absl::Hours(48);
  const TestAuthority* issuer = nullptr;  // null: itself
};

class TestAuthority {
 public:
  explicit TestAuthority(const AuthorityRequest& request = {});
  ~TestAuthority();
  TestAuthority(const TestAuthority&) = delete;
  TestAuthority& operator=(const TestAuthority&) = delete;

  const std::string& pem() const;
  // Each with a key of its own.
  IssuedCertificate Issue(const CertificateRequest& request) const;

 private:
  struct Keys;
  std::unique_ptr<Keys> keys_;
};

// The private key, encrypted with a password.
std::string WithPassword(const std::string& private_key);

}  // namespace m1
