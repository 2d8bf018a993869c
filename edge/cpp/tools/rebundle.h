// A bundle from the host, and the one that a device makes of it with plans of its own.
#pragma once

#include <array>
#include <cstddef>
#include <filesystem>
#include <functional>
#include <nlohmann/json.hpp>
#include <optional>
#include <string>
#include <vector>

#include "bundle.h"

namespace edge::tools {

struct Source {
    Bundle bundle;
    nlohmann::ordered_json manifest;  // all that it says, in its order
};

// Reads and checks the manifest; files are checked as they are copied.
Source read_source(const std::filesystem::path& folder);

using Profile = std::array<std::size_t, 3>;  // the least, best and largest number of images, or of regions

// A graph to make a plan of.
struct Stage {
    std::string name;  // empty for a model of one graph
    std::string graph;
    std::vector<Profile> profiles;
};

// What the device's bundle is for: the source's batches and numbers of regions, or those up to the largest batch.
struct Sizes {
    std::vector<std::size_t> batches, regions;  // regions: empty for a model of one graph
    bool one_profile = false;                   // for all numbers of regions
};
// only: nothing below the largest batch and its regions, which fewer are then padded to. Where the bundle looks at some
// regions only, and profiles can be shared, fewer regions cost less: one profile serves them all.
Sizes choose_sizes(const Source& source, std::optional<long> batch, bool only, bool shares_profiles);

// 1, 2, 4 … up to most, and that.
std::vector<std::size_t> powers_of_two(std::size_t most);

// Copies what is not of an engine, its digests checked. Gives the graphs, as the source's backend parses them.
std::vector<Stage> copy_files(const Source& source, const Sizes& sizes, const std::filesystem::path& folder);

// Whether a graph has nodes of ours, for which TensorRT needs the plugin.
bool needs_plugin(const Stage& stage);

// As edge/backends/trt/plan.py names it.
std::string plan_file(const std::string& stage);

// Writes the manifest of all files in the folder.
// engine: the backend's facts; gpu: of the machine; versions: of what built it.
nlohmann::ordered_json write_manifest(const Source& source, const Sizes& sizes, const nlohmann::json& engine,
                                      const std::string& gpu, const nlohmann::json& versions,
                                      const std::filesystem::path& folder);

}  // namespace edge::tools
