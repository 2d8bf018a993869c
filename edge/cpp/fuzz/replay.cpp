// For compilers without libFuzzer: runs the cases of standard input, each behind its length in 4 bytes, as
// `python tests/cpp/fuzz.py write` makes them; prints how many there were, and the slowest.
#include <algorithm>
#include <chrono>
#include <cstdint>
#include <cstdio>
#include <vector>

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t bytes);

int main() {
    std::uint32_t bytes = 0;
    unsigned long long cases = 0;
    double slowest = 0;
    for (; std::fread(&bytes, sizeof bytes, 1, stdin) == 1; ++cases) {
        std::vector<std::uint8_t> data(bytes);  // of its very size: the sanitizer sees what is read behind it
        if (std::fread(data.data(), 1, bytes, stdin) != bytes) return 2;
        const auto start = std::chrono::steady_clock::now();
        LLVMFuzzerTestOneInput(data.data(), bytes);
        slowest = std::max(slowest, std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count());
    }
    std::printf("{\"cases\": %llu, \"slowest_s\": %.4f}\n", cases, slowest);
}
