// The bundle as it lies on disk: its manifest, checked before it is believed, and the digests of its files.
#pragma once

#include <cstdint>
#include <filesystem>
#include <map>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "edge/engine.hpp"

namespace edge {

// What the manifest says; every field has been checked for type and range.
struct Bundle {
    struct File {
        std::string sha256;
        std::uint64_t bytes = 0;
    };
    // Facts of an engine on a GPU; empty for others.
    struct Plan {
        std::string payload, plugin, version, compute_capability;
        std::uint64_t bytes = 0;
        std::vector<std::array<int, 3>> profiles;  // smallest, best, largest batch
    };

    std::filesystem::path path;
    std::string model;
    std::vector<std::string> labels;
    std::vector<float> thresholds;  // (C,)
    ImageSpec image;
    std::string backend, precision, float16;  // float16: bf16, fp16, or empty
    std::vector<std::size_t> batches;         // ascending
    std::string architecture, runtime;        // it was built on and with; empty where the manifest does not tell
    std::map<std::string, File> files;
    Plan plan;

    std::string rebuild() const { return "Rebuild it here: python -m edge.build --from " + path.string() + " --force"; }
};

// Throws Error, whatever the text holds; time and memory are linear in its length.
Bundle parse_manifest(std::string_view text, const std::filesystem::path& folder);

// Reads manifest.json, then checks presence, size and SHA-256 of every file it lists.
Bundle read_bundle(const std::filesystem::path& folder);

// The whole file, refused where it is no regular file or longer than `most` bytes.
std::string read_file(const std::filesystem::path& file, std::uint64_t most, const std::string& stage);

}  // namespace edge
