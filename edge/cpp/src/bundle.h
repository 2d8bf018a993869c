// The bundle as it lies on disk: its manifest, checked before it is believed, and its files, checked by their digests.
#pragma once

#include <cstdint>
#include <filesystem>
#include <map>
#include <memory>
#include <nlohmann/json.hpp>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "edge/engine.hpp"
#include "effort.h"

namespace edge {

constexpr const char* MANIFEST = "manifest.json";
constexpr const char* REBUILD = "Rebuild the bundle: python -m edge.build --force";
// As edge/bundle.py: what is allocated follows from these.
constexpr std::int64_t MAX_BATCH = 4096;
constexpr std::int64_t MAX_REGIONS = 100000;  // of a batch

// What the manifest says; every field has been checked for type and range.
struct Bundle {
    struct File {
        std::string sha256;
        std::uint64_t bytes = 0;
    };

    std::filesystem::path path;
    std::string model;
    std::vector<std::string> labels;
    std::vector<float> thresholds;  // (C,)
    ImageSpec image;
    std::string backend, precision, float16;  // float16: bf16, fp16, or empty
    std::vector<std::size_t> batches;         // ascending
    std::vector<std::size_t> sizes;           // numbers of regions of the second stage, ascending; empty for one graph
    Rule rule;                                // of the second stage
    double effort = 1;                        // of calls that name none
    std::vector<float> effort_thresholds;  // (C,) for scores at `effort`; empty where `thresholds` holds for them too
    std::string architecture, runtime;     // it was built on and with; empty where the manifest does not tell
    std::map<std::string, File> files;
    nlohmann::json engine;  // what the backend wrote of its engine; checked, and read, by the backend alone

    // Of the labels: those fitted at effort 1 or at the bundle's, whichever is nearer.
    const std::vector<float>& thresholds_at(double used) const {
        return !effort_thresholds.empty() && used < (1 + effort) / 2 ? effort_thresholds : thresholds;
    }

    // Of one image, as the engine takes it.
    std::size_t image_bytes() const {
        const auto side = static_cast<std::size_t>(image.size);
        return 3 * side * side * (image.uint8 ? 1 : sizeof(float));
    }

    std::string rebuild() const { return "Rebuild it here: python -m edge.build --from " + path.string() + " --force"; }
};

// Throws Error, whatever the text holds; time and memory are linear in its length.
Bundle parse_manifest(std::string_view text, const std::filesystem::path& folder);

// The bytes of a file. They begin on a page, as a memory map does: a runtime may compute on them where they are.
struct Content {
    std::shared_ptr<char> data;
    std::size_t bytes = 0;
};

// The files of an engine (engine.*) by name.
using Contents = std::map<std::string, Content>;

// Reads manifest.json and every file it lists, once, and checks sizes and SHA-256. What is given back are the very
// bytes that were checked: the files may change meanwhile.
std::pair<Bundle, Contents> read_bundle(const std::filesystem::path& folder);

// One of them; refused where it is not there.
const Content& content_of(const Contents& contents, const std::string& name, const Bundle& bundle);

}  // namespace edge
