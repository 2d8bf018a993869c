#include "edge/engine.hpp"

namespace edge {

Error::Error(const std::string& stage, const std::string& must, const std::string& got, const std::string& expected,
             const std::string& fix)
    : std::runtime_error("[" + stage + "] " + must + ", got " + got + ". Expected " + expected + ". " + fix + ".") {}

}  // namespace edge
