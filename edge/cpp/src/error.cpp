#include <cstdio>

#include "edge/engine.hpp"

namespace edge {
namespace {

// Length of the character at `at` that must not reach a terminal as it is: controls (C0, DEL, C1), line ends of
// Unicode, and marks that turn the direction of writing; 0 where it may.
std::size_t control(const std::string& text, std::size_t at) {
    const auto byte = [&](std::size_t offset) {
        return at + offset < text.size() ? static_cast<unsigned char>(text[at + offset]) : 0U;
    };
    const unsigned first = byte(0), second = byte(1), third = byte(2);
    if (first < 0x20 || first == 0x7F) return 1;
    if (first == 0xC2 && second >= 0x80 && second <= 0x9F) return 2;
    if (first == 0xD8 && second == 0x9C) return 2;  // U+061C
    if (first != 0xE2) return 0;
    const bool turns = second == 0x80 && (third == 0x8E || third == 0x8F || (third >= 0xA8 && third <= 0xAE));
    return turns || (second == 0x81 && third >= 0xA6 && third <= 0xA9) ? 3 : 0;
}

// One line, whatever names of files and classes hold.
std::string plain(const std::string& text) {
    std::string shown;
    for (std::size_t at = 0; at < text.size();) {
        const std::size_t length = control(text, at);
        for (std::size_t end = at + length; at < end; ++at) {
            char escape[5];
            std::snprintf(escape, sizeof escape, "\\x%02x", static_cast<unsigned char>(text[at]));
            shown += escape;
        }
        if (length == 0) shown += text[at++];
    }
    return shown;
}

// Vendors' messages and file names may end in a full stop of their own.
std::string sentence(std::string text) {
    while (!text.empty() && text.back() == '.') text.pop_back();
    return plain(text) + ".";
}

}  // namespace

Error::Error(const std::string& stage, const std::string& problem, const std::string& fix)
    : std::runtime_error("[" + stage + "] " + sentence(problem) + " " + sentence(fix)) {}

}  // namespace edge
