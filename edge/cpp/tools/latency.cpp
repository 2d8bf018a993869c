#include "latency.h"

#include <algorithm>
#include <chrono>
#include <cmath>
#include <cstdio>
#include <numeric>
#include <utility>

namespace edge::tools {
namespace {

// As Plan of edge/measure/latency.py.
constexpr std::size_t SAMPLES = 100, WARM_WINDOW = 5, ENOUGH = 10;
constexpr long WARM_CALLS = 100;
constexpr double LEAST_S = 2, LIMIT_S = 20, WARM_WINDOW_S = 1, WARM_TOLERANCE = 0.05, WARM_S = 10;
constexpr double INTERVAL = 0.05, SPREAD = 0.30, DRIFT = 0.05, CONFIDENCE = 0.95;

double timed(const std::function<void()>& call) {
    const auto start = std::chrono::steady_clock::now();
    call();
    return std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
}

double sum(const std::vector<double>& values) { return std::accumulate(values.begin(), values.end(), 0.0); }

// Until the median of a window of calls agrees with that of the window before; the calls made.
long warm(const std::function<void()>& call) {
    long calls = 0;
    double spent = 0, before = INFINITY;
    while (calls < WARM_CALLS && spent < WARM_S) {
        std::vector<double> seconds;
        while (seconds.size() < WARM_WINDOW && sum(seconds) < WARM_WINDOW_S) seconds.push_back(timed(call));
        calls += static_cast<long>(seconds.size());
        spent += sum(seconds);
        const double now = percentile(seconds, 50);
        if (std::abs(now - before) <= WARM_TOLERANCE * now) break;
        before = now;
    }
    return calls;
}

std::string words(const char* format, double a, double b) {
    char text[160];
    std::snprintf(text, sizeof text, format, a * 100, b * 100);
    return text;
}

}  // namespace

Latency measure(const std::function<void()>& call, std::optional<long> iterations, std::optional<long> warm_up) {
    Latency found;
    if (warm_up)
        while (found.warm_up < *warm_up) timed(call), ++found.warm_up;
    else
        found.warm_up = warm(call);
    double total = 0;
    const auto go_on = [&] {
        if (iterations) return found.seconds.size() < static_cast<std::size_t>(*iterations);
        return total < LIMIT_S && (found.seconds.size() < SAMPLES || total < LEAST_S);
    };
    while (go_on()) {
        found.seconds.push_back(timed(call));
        total += found.seconds.back();
    }
    return found;
}

double percentile(std::vector<double> values, double percent) {
    std::sort(values.begin(), values.end());
    const double place = percent / 100 * static_cast<double>(values.size() - 1), low = std::floor(place);
    const auto at = static_cast<std::size_t>(low);
    const double next = values[std::min(at + 1, values.size() - 1)];
    return values[at] + (next - values[at]) * (place - low);
}

std::pair<double, double> median_interval(std::vector<double> values) {
    std::sort(values.begin(), values.end());
    const std::size_t count = values.size();
    // P(binomial(n, 1/2) < rank), from the outside in.
    double tail = 0;
    std::size_t rank = 0;
    const double n = static_cast<double>(count);
    for (std::size_t k = 0; k < (count - 1) / 2; ++k) {
        const double i = static_cast<double>(k);
        const double grown =
            tail + std::exp(std::lgamma(n + 1) - std::lgamma(i + 1) - std::lgamma(n - i + 1) - n * std::log(2.0));
        if (2 * grown > 1 - CONFIDENCE) break;
        tail = grown, rank = k + 1;
    }
    const std::size_t outer = rank ? rank - 1 : 0;
    return {values[outer], values[count - 1 - outer]};
}

std::vector<std::string> judge(const std::vector<double>& seconds) {
    std::vector<std::string> reasons;
    if (seconds.size() < ENOUGH)
        reasons.push_back("too few samples: " + std::to_string(seconds.size()) + " of at least " +
                          std::to_string(ENOUGH));
    if (seconds.size() < 2) return reasons;
    const auto third = static_cast<std::ptrdiff_t>(std::max<std::size_t>(1, seconds.size() / 3));
    const double middle = percentile(seconds, 50);
    const auto [low, high] = median_interval(seconds);
    const double spread = middle > 0 ? (percentile(seconds, 90) - percentile(seconds, 10)) / middle : 0;
    const double drift = percentile({seconds.end() - third, seconds.end()}, 50) /
                             percentile({seconds.begin(), seconds.begin() + third}, 50) -
                         1;
    if (high - low > INTERVAL * middle)
        reasons.push_back(words("unstable: the median is only known to ±%.1f%% (limit ±%.1f%%)",
                                (high - low) / middle / 2, INTERVAL / 2));
    if (spread > SPREAD)
        reasons.push_back(words("unstable: p10 to p90 span %.0f%% of the median (limit %.0f%%)", spread, SPREAD));
    if (std::abs(drift) > DRIFT)
        reasons.push_back(words("unstable: the median moved by %+.0f%% during the run (limit %.0f%%)", drift, DRIFT));
    return reasons;
}

nlohmann::json percentiles_ms(const std::vector<double>& seconds) {
    nlohmann::json found;
    for (const auto& [name, percent] : {std::pair{"p50", 50}, {"p90", 90}, {"p95", 95}, {"p99", 99}})
        found[name] = percentile(seconds, percent) * 1e3;
    found["mean"] = sum(seconds) / static_cast<double>(seconds.size()) * 1e3;
    found["min"] = *std::min_element(seconds.begin(), seconds.end()) * 1e3;
    found["max"] = *std::max_element(seconds.begin(), seconds.end()) * 1e3;
    return found;
}

double variation(const std::vector<double>& seconds) {
    if (seconds.size() < 2) return 0;
    const double n = static_cast<double>(seconds.size()), mean = sum(seconds) / n;
    double squares = 0;
    for (const double each : seconds) squares += (each - mean) * (each - mean);
    return mean > 0 ? std::sqrt(squares / (n - 1)) / mean : 0;
}

}  // namespace edge::tools
