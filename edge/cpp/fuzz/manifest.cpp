// manifest.json from outside: a Bundle or an Error, whatever the bytes.
#include <algorithm>
#include <cstdint>
#include <functional>
#include <string_view>

#include "runner.h"

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t bytes) {
    try {
        const edge::Bundle bundle =
            edge::parse_manifest(std::string_view(reinterpret_cast<const char*>(data), bytes), "bundle");
        // What a parsed manifest promises, whatever it was made of.
        if (bundle.labels.empty() || bundle.thresholds.size() != bundle.labels.size() || bundle.batches.empty())
            __builtin_trap();
        if (std::adjacent_find(bundle.sizes.begin(), bundle.sizes.end(), std::greater_equal<>()) != bundle.sizes.end())
            __builtin_trap();
        for (const auto& [name, entry] : bundle.files)
            if (name.find('/') != std::string::npos || name == "..") __builtin_trap();
        const auto backend = edge::backends().find(bundle.backend);
        if (backend == edge::backends().end()) return 0;
        for (const std::string& name : backend->second.files(bundle.engine))
            if (!bundle.files.count(name)) __builtin_trap();
    } catch (const edge::Error&) {
    }
    return 0;
}
