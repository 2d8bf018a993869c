// The command line of the tools, with the exit codes of the Python commands: 0 done, 1 refused in one line, 2 not
// understood.
#pragma once

#include <functional>
#include <map>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

namespace edge::tools {

struct Flag {
    const char* name;     // as --batch
    const char* metavar;  // of its value; empty for a flag without one
    const char* help;
};

// What was given.
class Arguments {
  public:
    // Ends the program for --help, --version and what cannot be understood. positional: their names, all needed.
    Arguments(int count, char** words, const char* program, const char* description,
              const std::vector<const char*>& positional, const std::vector<Flag>& flags);

    const std::string& operator[](std::size_t positional) const { return positional_[positional]; }
    bool has(const char* flag) const { return values_.count(flag) > 0; }
    std::optional<std::string> text(const char* flag) const;

    // Refuses a number out of range; one that is no number was not understood.
    std::optional<long> number(const char* flag, long least, long most) const;
    std::optional<double> decimal(const char* flag, double least, double most) const;

  private:
    [[noreturn]] void misunderstood(const std::string& why) const;

    std::string program_, usage_;
    std::vector<std::string> positional_;
    std::map<std::string, std::string, std::less<>> values_;
};

// The work of a tool: whatever it throws becomes one line on standard error and the exit code.
int run(const std::function<void()>& work);

// Thrown where the person or the system asked us to stop.
struct Interrupted {};

}  // namespace edge::tools
