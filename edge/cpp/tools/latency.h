// Latency: warm up until it holds still, count, and say whether the figure may be believed; as edge/measure/latency.py.
#pragma once

#include <functional>
#include <nlohmann/json.hpp>
#include <optional>
#include <string>
#include <vector>

namespace edge::tools {

struct Latency {
    std::vector<double> seconds;  // each counted call, in the order made
    long warm_up = 0;             // calls before these
};

// iterations, warm_up: calls; without them as long as the figure needs.
Latency measure(const std::function<void()>& call, std::optional<long> iterations, std::optional<long> warm_up);

// Linear interpolation between order statistics, as NumPy's.
double percentile(std::vector<double> values, double percent);

// 95 % interval of the median between two order statistics.
std::pair<double, double> median_interval(std::vector<double> values);

// Why a measurement may not be believed; empty when it may.
std::vector<std::string> judge(const std::vector<double>& seconds);

// p50 to max, in milliseconds.
nlohmann::json percentiles_ms(const std::vector<double>& seconds);

// Standard deviation over mean.
double variation(const std::vector<double>& seconds);

}  // namespace edge::tools
