// The machine a figure holds for, and what happened to it meanwhile; as edge/measure/machine.py. What is not told is
// null.
#pragma once

#include <nlohmann/json.hpp>
#include <string>
#include <vector>

namespace edge::tools {

nlohmann::json describe_machine();

// Megabytes (2^20 bytes) of a field of /proc/self/status, or null.
nlohmann::json memory_mb(const char* field);

// The counters of one moment, in processor seconds of all cores.
struct MachineState {
    double busy = 0, stolen = 0, total = 0, own = 0;
    nlohmann::json clock_mhz;
};
MachineState read_state();

// What happened between two states: the figures, and why the run between may not be believed.
nlohmann::json disturbance(const MachineState& before, const MachineState& after, std::vector<std::string>& reasons);

}  // namespace edge::tools
