#include "rebundle.h"

#include <sys/utsname.h>

#include <algorithm>
#include <utility>

#include "files.h"
#include "runner.h"

namespace edge::tools {
namespace {

namespace fs = std::filesystem;
using nlohmann::json;
using nlohmann::ordered_json;

constexpr int SCHEMA = 2;
constexpr std::uintmax_t MAX_MANIFEST_BYTES = 16u << 20, MAX_GRAPH_BYTES = std::uintmax_t{1} << 31;

bool of_engine(const std::string& name) { return name.rfind("engine.", 0) == 0; }

std::string lowered_file(const std::string& stage) {
    return stage.empty() ? "lowered.onnx" : "lowered." + stage + ".onnx";
}

}  // namespace

Source read_source(const fs::path& folder) {
    std::error_code error;
    if (!fs::is_directory(folder, error))
        throw Error("load", "There is no bundle at " + folder.string(), "Build one: python -m edge.build");
    const std::string text = read_file(folder / MANIFEST, MAX_MANIFEST_BYTES);
    Source source{parse_manifest(text, folder), {}};
    source.manifest = ordered_json::parse(text);  // parsed once already, so it is JSON
    return source;
}

std::vector<std::size_t> powers_of_two(std::size_t most) {
    std::vector<std::size_t> sizes;
    for (std::size_t size = 1; size < most; size *= 2) sizes.push_back(size);
    sizes.push_back(most);
    return sizes;
}

Sizes choose_sizes(const Source& source, std::optional<long> batch, bool only, bool shares_profiles) {
    const Bundle& bundle = source.bundle;
    const auto up_to = [only](std::size_t most) { return only ? std::vector<std::size_t>{most} : powers_of_two(most); };
    if (!batch && only) batch = static_cast<long>(bundle.batches.back());
    if (!batch) return {bundle.batches, bundle.sizes};
    const auto most = static_cast<std::size_t>(*batch);
    if (bundle.sizes.empty()) return {up_to(most), {}};
    const auto options = source.manifest["model"].value("options", ordered_json::object());
    const auto regions = options.value("regions", ordered_json());
    if (!regions.is_number_integer() || regions < 1 || regions > MAX_REGIONS / static_cast<std::int64_t>(most))
        throw Error("build",
                    "The model's regions are " + regions.dump().substr(0, 40) + ", which is not a number of regions",
                    "Leave out --batch, or build the bundle again");
    const std::size_t all = regions.get<std::size_t>() * most;
    if (only && shares_profiles && bundle.effort < 1) return {up_to(most), powers_of_two(all), true};
    return {up_to(most), up_to(all)};
}

std::vector<Stage> copy_files(const Source& source, const Sizes& sizes, const fs::path& folder) {
    const Bundle& bundle = source.bundle;
    for (const auto& [name, listed] : bundle.files) {
        if (of_engine(name)) continue;
        const fs::path file = bundle.path / name;
        std::error_code ignored;
        if (!fs::is_regular_file(fs::symlink_status(file, ignored)))
            throw Error("load", "There is no file " + file.string() + ", which the bundle lists",
                        "Copy the bundle again");
        if (copy_with_digest(file, folder / name) != listed.sha256)
            throw Error("load", file.string() + " was changed or truncated: its SHA-256 is not that in the manifest",
                        "Copy the bundle again");
    }
    std::vector<Stage> stages;
    const auto add = [&](const std::string& name, const std::vector<std::size_t>& counts, bool one_profile) {
        const std::string file = lowered_file(name);
        if (!bundle.files.count(file))
            throw Error("load", bundle.path.string() + " has no " + file, "Build the bundle again on the host");
        Stage stage{name, read_file(folder / file, MAX_GRAPH_BYTES), {}};
        if (one_profile) {
            stage.profiles = {{counts.front(), counts.back(), counts.back()}};
        } else {  // exact sizes give the quickest kernels
            for (const std::size_t count : counts) stage.profiles.push_back({count, count, count});
        }
        stages.push_back(std::move(stage));
    };
    if (bundle.sizes.empty()) {
        add("", sizes.batches, false);
    } else {
        add(LOOK, sizes.batches, false);
        add(CLOSER, sizes.regions, sizes.one_profile);
    }
    return stages;
}

// Nodes of ours alone have the attribute; no other text of a graph does.
bool needs_plugin(const Stage& stage) { return stage.graph.find("plugin_namespace") != std::string::npos; }

std::string plan_file(const std::string& stage) { return stage.empty() ? "engine.plan" : "engine." + stage + ".plan"; }

ordered_json write_manifest(const Source& source, const Sizes& sizes, const json& engine, const std::string& gpu,
                            const json& versions, const fs::path& folder) {
    struct utsname machine{};
    uname(&machine);
    ordered_json manifest = source.manifest;
    manifest["schema"] = SCHEMA;
    manifest["version"] = MCAR_EDGE_VERSION;
    manifest["target"]["backend"] = "tensorrt";
    manifest["target"]["batches"] = sizes.batches;
    if (!sizes.regions.empty()) manifest["stages"]["sizes"] = sizes.regions;
    manifest["engine"] = engine;
    manifest["tools"] = versions;
    manifest["machine"] = {{"architecture", machine.machine}, {"device", gpu}};
    ordered_json files = ordered_json::object();
    std::vector<fs::path> entries;
    for (const auto& entry : fs::directory_iterator(folder)) entries.push_back(entry.path());
    std::sort(entries.begin(), entries.end());
    for (const fs::path& entry : entries)
        files[entry.filename().string()] = {{"sha256", digest_file(entry)}, {"bytes", fs::file_size(entry)}};
    manifest.erase("files");
    manifest["files"] = std::move(files);
    write_file(folder / MANIFEST, manifest.dump(1, ' ', true) + "\n");
    return manifest;
}

}  // namespace edge::tools
