// SHA-256 of bytes that come in pieces.
#pragma once

#include <openssl/evp.h>

#include <array>
#include <memory>
#include <string>

#include "edge/engine.hpp"

namespace edge {

class Sha256 {
  public:
    Sha256() : context_(EVP_MD_CTX_new(), EVP_MD_CTX_free) {
        check(context_ ? EVP_DigestInit_ex(context_.get(), EVP_sha256(), nullptr) : 0);
    }
    void add(const char* data, std::size_t bytes) { check(EVP_DigestUpdate(context_.get(), data, bytes)); }
    std::string hex() {
        std::array<unsigned char, EVP_MAX_MD_SIZE> raw{};
        unsigned length = 0;
        check(EVP_DigestFinal_ex(context_.get(), raw.data(), &length));
        std::string digits;
        for (unsigned i = 0; i < length; ++i) {
            digits += "0123456789abcdef"[raw[i] >> 4];
            digits += "0123456789abcdef"[raw[i] & 15];
        }
        return digits;
    }

  private:
    static void check(int done) {
        if (done != 1) throw Error("load", "libcrypto cannot compute SHA-256 here", "Reinstall libcrypto");
    }
    std::unique_ptr<EVP_MD_CTX, decltype(&EVP_MD_CTX_free)> context_;
};

}  // namespace edge
