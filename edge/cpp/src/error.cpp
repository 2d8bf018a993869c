#include "edge/engine.hpp"

namespace edge {
namespace {

// Vendors' messages and file names may end in a full stop of their own.
std::string sentence(std::string text) {
    while (!text.empty() && text.back() == '.') text.pop_back();
    return text + ".";
}

}  // namespace

Error::Error(const std::string& stage, const std::string& problem, const std::string& fix)
    : std::runtime_error("[" + stage + "] " + sentence(problem) + " " + sentence(fix)) {}

}  // namespace edge
