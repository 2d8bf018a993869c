// Values of a manifest, which comes from outside: each is given back only where its type and range are right.
#pragma once

#include <cstdint>
#include <initializer_list>
#include <nlohmann/json.hpp>
#include <string>
#include <string_view>

namespace edge {

using nlohmann::json;

// Throws that the manifest's `name` does not hold: a sentence's end, such as "is not an integer".
[[noreturn]] void refuse_value(const std::string& name, const std::string& problem);

// A member of that type; refused where it is missing.
const json& member(const json& object, const char* name, json::value_t type);
std::string text(const json& object, const char* name);
std::string text_or_empty(const json& object, const char* name);

std::int64_t integer(const json& value, const char* name, std::int64_t least, std::int64_t most);
float number(const json& value, const char* name);

// Refuses an object, called `name`, that has keys besides the known ones: what they ask for would be ignored.
void refuse_unknown(const json& object, const char* name, std::initializer_list<std::string_view> known);

}  // namespace edge
