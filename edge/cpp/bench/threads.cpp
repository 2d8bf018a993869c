// One engine, many threads: are the results those of one thread, and does memory stay?
//   mcar_edge_threads BUNDLE [THREADS=8] [IMAGES=1000] [LOADS=0]
// Every thread runs IMAGES images of its own and compares each with the serial result, bit for bit. Resident memory is
// read after the first half and after the second. LOADS further engines are then loaded, used and closed, one by one.
#include <unistd.h>

#include <atomic>
#include <cstdio>
#include <cstdlib>
#include <edge/engine.hpp>
#include <fstream>
#include <thread>

namespace {

constexpr std::size_t DISTINCT = 16;  // images; each thread walks through them from a place of its own

double resident_mb() {
    std::ifstream file("/proc/self/statm");
    long all = 0, resident = 0;
    file >> all >> resident;
    return static_cast<double>(resident) * static_cast<double>(sysconf(_SC_PAGESIZE)) / 1e6;
}

bool same(const edge::Outputs& a, const edge::Outputs& b) {
    return a.scores == b.scores && a.global_scores == b.global_scores && a.local_scores == b.local_scores &&
           a.regions == b.regions && a.region_classes == b.region_classes;
}

int run(int count, char** words) {
    const auto number = [&](int at, int otherwise) { return count > at ? std::atoi(words[at]) : otherwise; };
    const int threads = number(2, 8), images = number(3, 1000), loads = number(4, 0);
    const edge::Engine engine = edge::Engine::load(words[1]);
    const auto side = static_cast<std::size_t>(engine.image().size), pixels = 3 * side * side;
    std::vector<float> data(DISTINCT * pixels);
    for (std::size_t i = 0; i < data.size(); ++i) data[i] = static_cast<float>(i * 2654435761u % 997) / 500.0f - 1.0f;
    std::vector<edge::Outputs> serial;
    for (std::size_t i = 0; i < DISTINCT; ++i) serial.push_back(engine.infer(data.data() + i * pixels, 1));

    std::atomic<int> wrong{0};
    const auto half = [&] {
        std::vector<std::thread> pool;
        for (int t = 0; t < threads; ++t)
            pool.emplace_back([&, t] {
                edge::Outputs outputs;
                for (int i = 0; i < images / 2; ++i) {
                    const std::size_t which = static_cast<std::size_t>(t * 5 + i) % DISTINCT;
                    engine.infer(data.data() + which * pixels, 1, outputs);
                    wrong += !same(outputs, serial[which]);
                }
            });
        for (std::thread& each : pool) each.join();
        return resident_mb();
    };
    const double first = half(), second = half();
    double after_few = 0;
    for (int i = 0; i < loads; ++i) {
        edge::Engine other = edge::Engine::load(words[1]);
        wrong += !same(other.infer(data.data(), 1), serial[0]);
        other.close();
        if (i == loads / 2) after_few = resident_mb();
    }
    std::printf(
        "{\"images\": %d, \"wrong\": %d, \"first_mb\": %.1f, \"second_mb\": %.1f, \"growth\": %.4f, \"load_growth\": "
        "%.4f}\n",
        threads * (images / 2) * 2, wrong.load(), first, second, second / first,
        after_few > 0 ? resident_mb() / after_few : 1.0);
    return wrong ? 1 : 0;
}

}  // namespace

int main(int count, char** words) {
    if (count < 2) return std::fprintf(stderr, "usage: mcar_edge_threads BUNDLE [THREADS] [IMAGES] [LOADS]\n"), 2;
    try {
        return run(count, words);
    } catch (const edge::Error& error) {
        std::fprintf(stderr, "%s\n", error.what());
        return 1;
    }
}
