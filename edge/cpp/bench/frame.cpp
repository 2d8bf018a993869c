// What a 1080p frame costs outside the network: Engine::preprocess with exact and with approximate pixels.
//   mcar_edge_frame BUNDLE [ROUNDS=15] [CALLS=20]
// Interleaved: every round times CALLS of each; medians over all rounds, in milliseconds of processor time (it is the
// work of one thread).
#include <algorithm>
#include <cstdio>
#include <cstdlib>
#include <ctime>
#include <edge/engine.hpp>

namespace {

double milliseconds() {
    timespec now{};
    clock_gettime(CLOCK_THREAD_CPUTIME_ID, &now);
    return static_cast<double>(now.tv_sec) * 1e3 + static_cast<double>(now.tv_nsec) / 1e6;
}

}  // namespace

int main(int count, char** words) {
    if (count < 2) {
        std::fprintf(stderr, "usage: mcar_edge_frame BUNDLE [ROUNDS] [CALLS]\n");
        return 2;
    }
    const int rounds = count > 2 ? std::atoi(words[2]) : 15, calls = count > 3 ? std::atoi(words[3]) : 20;
    edge::Image frame{1920, 1080, std::vector<std::uint8_t>(1920 * 1080 * 3)};
    unsigned state = 1;
    for (std::uint8_t& each : frame.pixels)
        each = static_cast<std::uint8_t>((state = state * 1664525u + 1013904223u) >> 24);
    try {
        edge::Engine engine = edge::Engine::load(words[1]);
        const auto side = static_cast<std::size_t>(engine.image().size);
        std::vector<float> floats(3 * side * side);
        std::vector<double> taken[2];
        for (int round = 0; round < rounds; ++round)
            for (const bool approximate : {false, true}) {
                engine.approximate_pixels(approximate);
                for (int i = -1; i < calls; ++i) {  // one is not counted
                    const double start = milliseconds();
                    if (engine.image().uint8)
                        engine.preprocess(frame.view(), reinterpret_cast<std::uint8_t*>(floats.data()));
                    else
                        engine.preprocess(frame.view(), floats.data());
                    if (i >= 0) taken[approximate].push_back(milliseconds() - start);
                }
            }
        for (std::vector<double>& each : taken) std::sort(each.begin(), each.end());
        std::printf("{\"exact_ms\": %.3f, \"approximate_ms\": %.3f}\n", taken[0][taken[0].size() / 2],
                    taken[1][taken[1].size() / 2]);
    } catch (const std::exception& error) {
        std::fprintf(stderr, "%s\n", error.what());
        return 1;
    }
}
