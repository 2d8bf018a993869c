// A plain mutating driver for compilers without libFuzzer, with its arguments where they matter here:
//   mcar_edge_fuzz_… CORPUS_FOLDER [-runs=N] [-seed=N]
// Runs the corpus, then N mutations of it; prints cases and the slowest case.
#include <algorithm>
#include <chrono>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <iterator>
#include <random>
#include <string>
#include <vector>

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t bytes);

using Bytes = std::vector<std::uint8_t>;

static Bytes mutated(const std::vector<Bytes>& corpus, std::mt19937_64& random) {
    const auto below = [&](std::size_t limit) { return limit ? random() % limit : 0; };
    Bytes data = corpus[below(corpus.size())];
    for (std::size_t changes = 1 + below(6); changes > 0 && !data.empty(); --changes) {
        const std::size_t at = below(data.size());
        const Bytes& other = corpus[below(corpus.size())];
        const std::size_t from = below(other.size()),
                          length = std::min<std::size_t>(1 + below(64), other.size() - from);
        const auto place = data.begin() + static_cast<std::ptrdiff_t>(at);
        switch (random() % 7) {
            case 0: data[at] ^= static_cast<std::uint8_t>(1u << below(8)); break;
            case 1: data[at] = static_cast<std::uint8_t>(random()); break;
            case 2: data[at] = static_cast<std::uint8_t>(below(2) ? 0xFF : 0x00); break;
            case 3: data.resize(at); break;
            case 4:
                data.erase(place,
                           place + static_cast<std::ptrdiff_t>(std::min<std::size_t>(1 + below(16), data.size() - at)));
                break;
            case 5:
                data.insert(place, other.begin() + static_cast<std::ptrdiff_t>(from),
                            other.begin() + static_cast<std::ptrdiff_t>(from + length));
                break;
            case 6: data.insert(place, 1 + below(4096), data[at]); break;  // long runs: nesting, huge numbers
        }
    }
    return data;
}

int main(int count, char** words) {
    std::vector<Bytes> corpus;
    std::uint64_t runs = 0, seed = 0;
    for (int i = 1; i < count; ++i) {
        const std::string word = words[i];
        if (word.rfind("-runs=", 0) == 0) {
            runs = std::strtoull(word.c_str() + 6, nullptr, 10);
        } else if (word.rfind("-seed=", 0) == 0) {
            seed = std::strtoull(word.c_str() + 6, nullptr, 10);
        } else if (word[0] != '-') {
            for (const auto& entry : std::filesystem::directory_iterator(word)) {
                std::ifstream file(entry.path(), std::ios::binary);
                corpus.emplace_back(std::istreambuf_iterator<char>(file), std::istreambuf_iterator<char>());
            }
        }
    }
    if (corpus.empty()) return std::fprintf(stderr, "usage: %s CORPUS_FOLDER [-runs=N] [-seed=N]\n", words[0]), 2;
    std::mt19937_64 random(seed);
    double slowest = 0;
    for (std::uint64_t i = 0; i < corpus.size() + runs; ++i) {
        const Bytes data = i < corpus.size() ? corpus[i] : mutated(corpus, random);
        const auto start = std::chrono::steady_clock::now();
        LLVMFuzzerTestOneInput(data.data(), data.size());
        slowest = std::max(slowest, std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count());
    }
    std::printf("{\"cases\": %llu, \"slowest_s\": %.4f}\n", static_cast<unsigned long long>(corpus.size() + runs),
                slowest);
}
