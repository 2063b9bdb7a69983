// OpenSSL's objects, owned.
#pragma once

#include <openssl/bio.h>
#include <openssl/evp.h>
#include <openssl/ssl.h>
#include <openssl/x509_vfy.h>
#include <openssl/x509v3.h>

#include <memory>

namespace m1 {

template <auto free_function>
struct OpensslFree {
  template <typename T>
  void operator()(T* pointer) const {
    free_function(pointer);
  }
};

using BioPointer = std::unique_ptr<BIO, OpensslFree<BIO_free>>;
using X509Pointer = std::unique_ptr<X509, OpensslFree<X509_free>>;
using X509ExtensionPointer = std::unique_ptr<X509_EXTENSION, OpensslFree<X509_EXTENSION_free>>;
using EvpPkeyPointer = std::unique_ptr<EVP_PKEY, OpensslFree<EVP_PKEY_free>>;
inline void FreeStack(STACK_OF(X509) * stack) { sk_X509_free(stack); }  // OpenSSL's is a macro

using SslContextPointer = std::unique_ptr<SSL_CTX, OpensslFree<SSL_CTX_free>>;
using X509StorePointer = std::unique_ptr<X509_STORE, OpensslFree<X509_STORE_free>>;
using X509StoreContextPointer = std::unique_ptr<X509_STORE_CTX, OpensslFree<X509_STORE_CTX_free>>;
// Does not own the certificates in it.
using X509StackPointer = std::unique_ptr<STACK_OF(X509), OpensslFree<FreeStack>>;
using GeneralNamesPointer = std::unique_ptr<GENERAL_NAMES, OpensslFree<GENERAL_NAMES_free>>;

}  // namespace m1
