#include "values.h"

#include <algorithm>
#include <cmath>

#include "bundle.h"

namespace edge {

void refuse_value(const std::string& name, const std::string& problem) {
    throw Error("load", "The manifest's '" + name + "' " + problem, REBUILD);
}

const json& member(const json& object, const char* name, json::value_t type) {
    const auto found = object.find(name);
    if (found == object.end() || found->type() != type) refuse_value(name, "is missing or has the wrong type");
    return *found;
}

std::string text(const json& object, const char* name) { return member(object, name, json::value_t::string); }

std::string text_or_empty(const json& object, const char* name) {
    const auto found = object.find(name);
    return found != object.end() && found->is_string() ? found->get<std::string>() : std::string();
}

std::int64_t integer(const json& value, const char* name, std::int64_t least, std::int64_t most) {
    if (!value.is_number_integer()) refuse_value(name, "is not an integer");
    // Unsigned values above the signed range would turn negative.
    const bool fits =
        value.is_number_unsigned() ? value.get<std::uint64_t>() <= static_cast<std::uint64_t>(most) : true;
    if (!fits || value.get<std::int64_t>() < least || value.get<std::int64_t>() > most)
        refuse_value(name, "is " + value.dump() + ", not in " + std::to_string(least) + " to " + std::to_string(most));
    return value.get<std::int64_t>();
}

float number(const json& value, const char* name) {
    if (!value.is_number() || !std::isfinite(static_cast<float>(value.get<double>())))
        refuse_value(name, "is not a finite number");
    return static_cast<float>(value.get<double>());
}

void refuse_unknown(const json& object, const char* name, std::initializer_list<std::string_view> known) {
    std::string unknown;
    for (const auto& [key, value] : object.items())
        if (unknown.size() < 200 && std::find(known.begin(), known.end(), key) == known.end())
            // Escaped: a key from outside may hold line breaks.
            unknown += (unknown.empty() ? "" : ", ") +
                       json(key.substr(0, 40)).dump(-1, ' ', true, json::error_handler_t::replace);
    if (!unknown.empty()) refuse_value(name, "has keys that this version does not know: " + unknown);
}

}  // namespace edge
