#include "arguments.h"

#include <algorithm>
#include <charconv>
#include <cstdio>
#include <cstdlib>
#include <exception>
#include <new>

#include "edge/engine.hpp"

namespace edge::tools {

Arguments::Arguments(int count, char** words, const char* program, const char* description,
                     const std::vector<const char*>& positional, const std::vector<Flag>& flags)
    : program_(program) {
    std::vector<Flag> all = flags;
    all.push_back({"--help", "", "show this and exit"});
    all.push_back({"--version", "", "show the version and exit"});
    usage_ = "usage: " + program_;
    for (const char* each : positional) usage_ += std::string(" ") + each;
    for (const Flag& each : flags)
        usage_ += std::string(" [") + each.name + (*each.metavar ? std::string(" ") + each.metavar : "") + "]";

    for (int i = 1; i < count; ++i) {
        const std::string word = words[i];
        if (word.rfind("--", 0) != 0) {
            positional_.push_back(word);
            continue;
        }
        const std::size_t equals = word.find('=');
        const std::string name = word.substr(0, equals);
        const auto flag = std::find_if(all.begin(), all.end(), [&](const Flag& each) { return name == each.name; });
        if (flag == all.end()) misunderstood("unrecognized arguments: " + word);
        if (!*flag->metavar) {
            if (equals != std::string::npos) misunderstood("argument " + name + ": takes no value");
            values_[name] = "";
        } else if (equals != std::string::npos) {
            values_[name] = word.substr(equals + 1);
        } else if (i + 1 < count) {
            values_[name] = words[++i];
        } else {
            misunderstood("argument " + name + ": expected one argument");
        }
    }
    if (has("--help")) {
        std::printf("%s\n\n%s\n\noptions:\n", usage_.c_str(), description);
        for (const Flag& each : all)
            std::printf("  %-20s %s\n", (std::string(each.name) + " " + each.metavar).c_str(), each.help);
        std::exit(0);
    }
    if (has("--version")) {
        std::puts("mcar-edge " MCAR_EDGE_VERSION);
        std::exit(0);
    }
    if (positional_.size() < positional.size())
        misunderstood(std::string("the following arguments are required: ") + positional[positional_.size()]);
    if (positional_.size() > positional.size())
        misunderstood("unrecognized arguments: " + positional_[positional.size()]);
}

std::optional<std::string> Arguments::text(const char* flag) const {
    const auto found = values_.find(flag);
    return found == values_.end() ? std::nullopt : std::optional(found->second);
}

std::optional<long> Arguments::number(const char* flag, long least, long most) const {
    const std::optional<std::string> given = text(flag);
    if (!given) return {};
    long value = 0;
    const char* end = given->data() + given->size();
    const auto [stopped, error] = std::from_chars(given->data(), end, value);
    if (error == std::errc::invalid_argument || stopped != end)
        misunderstood(std::string("argument ") + flag + ": invalid int value: '" + *given + "'");
    const std::string range = std::to_string(least) + " to " + std::to_string(most);
    if (error != std::errc() || value < least || value > most)
        throw Error("options", std::string(flag) + " is " + given->substr(0, 40), "Change it to " + range);
    return value;
}

std::optional<double> Arguments::decimal(const char* flag, double least, double most) const {
    const std::optional<std::string> given = text(flag);
    if (!given) return {};
    char* stopped = nullptr;
    const double value = std::strtod(given->c_str(), &stopped);
    if (given->empty() || *stopped)
        misunderstood(std::string("argument ") + flag + ": invalid float value: '" + *given + "'");
    char range[64];
    std::snprintf(range, sizeof range, "%g to %g", least, most);
    if (!(value >= least && value <= most))
        throw Error("options", std::string(flag) + " is " + given->substr(0, 40), std::string("Change it to ") + range);
    return value;
}

void Arguments::misunderstood(const std::string& why) const {
    std::fprintf(stderr, "%s\n%s: error: %s\n", usage_.c_str(), program_.c_str(), why.c_str());
    std::exit(2);
}

int run(const std::function<void()>& work) {
    try {
        work();
        return 0;
    } catch (const Interrupted&) {
        std::fputs("interrupted\n", stderr);
        return 130;
    } catch (const std::bad_alloc&) {
        std::fputs("[memory] There is no memory left. Close other programs.\n", stderr);
    } catch (const std::exception& error) {
        std::string line = error.what();
        std::replace_if(line.begin(), line.end(), [](char each) { return each == '\n' || each == '\r'; }, ' ');
        std::fprintf(stderr, "%s\n", line.c_str());
    }
    return 1;
}

}  // namespace edge::tools
