// Work in a process of its own: what kills or aborts a vendor's library there is an answer here; as
// edge/backends/trt/child.py.
#pragma once

#include <functional>
#include <nlohmann/json.hpp>
#include <stdexcept>
#include <string>

namespace edge::tools {

// Thrown by the work: the builder gave up, and another way may help.
struct NoPlan : std::runtime_error {
    using std::runtime_error::runtime_error;
};

struct Answer {
    nlohmann::json facts;  // null where there is an error, one line
    std::string error;
    bool gave_up = false;  // the builder made no plan
    bool killed = false;   // by the system, as for want of memory

    // The facts; the error is thrown.
    const nlohmann::json& require() const;
};

// From now on SIGINT, SIGTERM and SIGHUP are kept for check_interrupted.
void catch_signals();

// Throws Interrupted after one of those.
void check_interrupted();

// Forks, so it must be called while this process has one thread. What the work prints is kept, and told where it dies.
Answer in_child(const std::function<nlohmann::json()>& work);

}  // namespace edge::tools
