#include "machine.h"

#include <sched.h>
#include <sys/times.h>
#include <sys/utsname.h>
#include <unistd.h>

#include <algorithm>
#include <cmath>
#include <cstdio>
#include <filesystem>
#include <fstream>
#include <initializer_list>
#include <sstream>

namespace edge::tools {
namespace {

namespace fs = std::filesystem;
using nlohmann::json;

constexpr double BUSY_ELSEWHERE = 0.10, STOLEN = 0.02;
constexpr const char* INSTRUCTIONS[] = {"avx2",     "avx512f",  "avx_vnni", "avx512_vnni", "avx512_bf16", "avx512_fp16",
                                        "amx_int8", "amx_bf16", "amx_tile", "asimd",       "asimdhp",     "asimddp",
                                        "i8mm",     "bf16",     "sve",      "sve2"};

std::string read_text(const fs::path& file) {
    std::ifstream stream(file);
    std::ostringstream text;
    text << stream.rdbuf();
    return text.str();
}

// The first of these fields that a table of the kernel has; empty where it has none of them.
std::string field(const fs::path& table, std::initializer_list<const char*> names) {
    const std::string text = read_text(table);
    for (const char* name : names) {
        std::istringstream lines(text);
        for (std::string line; std::getline(lines, line);) {
            const std::size_t colon = line.find(':');
            if (colon == std::string::npos) continue;
            const std::string key = line.substr(0, line.find_last_not_of(" \t", colon ? colon - 1 : 0) + 1);
            if (key != name) continue;
            const std::size_t start = line.find_first_not_of(" \t", colon + 1);
            return start == std::string::npos ? "" : line.substr(start);
        }
    }
    return "";
}

json megabytes(const fs::path& table, const char* name) {
    const std::string value = field(table, {name});
    return value.empty() ? json() : json(std::strtod(value.c_str(), nullptr) / 1024);
}

json first_line(const fs::path& file) {
    std::string text = read_text(file);
    text = text.substr(0, text.find_first_of(std::string("\n\0", 2)));
    return text.empty() ? json() : json(text);
}

json clock_mhz() {
    const std::string text = read_text("/sys/devices/system/cpu/cpu0/cpufreq/scaling_cur_freq");
    return text.empty() ? json() : json(std::strtod(text.c_str(), nullptr) / 1e3);
}

std::string percent(double share) {
    char text[16];
    std::snprintf(text, sizeof text, "%.0f%%", share * 100);
    return text;
}

}  // namespace

json describe_machine() {
    struct utsname system{};
    uname(&system);
    cpu_set_t cores;
    CPU_ZERO(&cores);
    sched_getaffinity(0, sizeof cores, &cores);
    const std::string name = field("/proc/cpuinfo", {"model name", "Model", "Hardware"});
    const std::string flags = " " + field("/proc/cpuinfo", {"flags", "Features"}) + " ";
    json instructions = json::array(), gpus = json::array();
    for (const char* each : INSTRUCTIONS)
        if (flags.find(" " + std::string(each) + " ") != std::string::npos) instructions.push_back(each);
    std::error_code ignored;
    for (const auto& entry : fs::directory_iterator("/proc/driver/nvidia/gpus", ignored))
        gpus.push_back(field(entry.path() / "information", {"Model"}));
    const std::string release = system.release;
    json machine{{"cpu", name.empty() ? system.machine : name},
                 {"architecture", system.machine},
                 {"cores", CPU_COUNT(&cores)},
                 {"cores_online", sysconf(_SC_NPROCESSORS_ONLN)},
                 {"instructions", instructions},
                 {"memory_mb", megabytes("/proc/meminfo", "MemTotal")},
                 {"governor", first_line("/sys/devices/system/cpu/cpu0/cpufreq/scaling_governor")},
                 {"clock_mhz", clock_mhz()},
                 {"system", std::string(system.sysname) + " " + release.substr(0, release.find('-'))},
                 {"python", ""},
                 {"container", {{"cpu_limit", nullptr}, {"memory_limit_mb", nullptr}}}};
    if (!gpus.empty()) machine["gpu"] = gpus;
    if (const json board = first_line("/proc/device-tree/model"); !board.is_null())
        machine["jetson"] = {{"model", board}, {"power_mode", nullptr}};
    return machine;
}

json memory_mb(const char* name) { return megabytes("/proc/self/status", name); }

MachineState read_state() {
    std::ifstream table("/proc/stat");
    std::string word;
    table >> word;
    double fields[8] = {};
    for (double& each : fields) table >> each;
    const double tick = static_cast<double>(sysconf(_SC_CLK_TCK));
    const double busy = fields[0] + fields[1] + fields[2] + fields[5] + fields[6];
    struct tms own{};
    times(&own);
    return {busy / tick, fields[7] / tick, (busy + fields[3] + fields[4] + fields[7]) / tick,
            static_cast<double>(own.tms_utime + own.tms_stime) / tick, clock_mhz()};
}

json disturbance(const MachineState& before, const MachineState& after, std::vector<std::string>& reasons) {
    const double total = after.total - before.total, own = after.own - before.own;
    const double elsewhere = total > 0 ? std::max(0.0, after.busy - before.busy - own) / total : 0;
    const double stolen = total > 0 ? (after.stolen - before.stolen) / total : 0;
    if (elsewhere > BUSY_ELSEWHERE)
        reasons.push_back("disturbed: other processes took " + percent(elsewhere) + " of the processor (limit " +
                          percent(BUSY_ELSEWHERE) + ")");
    if (stolen > STOLEN)
        reasons.push_back("disturbed: the hypervisor took " + percent(stolen) + " of the processor (limit " +
                          percent(STOLEN) + ")");
    return {{"busy_elsewhere", std::round(elsewhere * 1e4) / 1e4},
            {"stolen", std::round(stolen * 1e4) / 1e4},
            {"clock_mhz", {before.clock_mhz, after.clock_mhz}}};
}

}  // namespace edge::tools
