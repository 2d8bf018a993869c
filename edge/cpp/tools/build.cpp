// mcar_edge_build: a bundle from the host → one with plans of this device's TensorRT, without Python; what
// python -m edge.build --from BUNDLE does.
#include <algorithm>
#include <cstdio>
#include <cstdlib>

#include "arguments.h"
#include "child.h"
#include "edge/engine.hpp"
#include "files.h"
#include "plan.h"
#include "rebundle.h"

namespace edge::tools {
namespace {

namespace fs = std::filesystem;
using nlohmann::json;

constexpr const char* PLUGIN = "engine.plugin.so";  // its name in a bundle
constexpr const char* PLUGIN_FILE = "libedge_plugin.so";
constexpr const char* PLUGIN_VARIABLE = "EDGE_TENSORRT_PLUGIN";
constexpr const char* TIMINGS = "timings";  // in the unfinished folder, where no file is named
// Shares of the free memory a build may use as workspace, tried from the left until one does.
constexpr double LADDER[] = {0.75, 0.35, 0.15};

void check_lowering(const Source& source) {
    const json found = source.manifest.value("lowering", nlohmann::ordered_json());
    const std::string lowering = found.is_string() ? found.get<std::string>() : "", wanted = lowering_here();
    const std::string version = tensorrt_version();
    if (lowering == wanted) return;
    const std::string oldest = version.substr(0, version.find_last_of('.'));
    throw Error("build",
                "The bundle's graph is lowered for " + (lowering.empty() ? "no backend" : lowering.substr(0, 40)) +
                    ", and TensorRT " + version + " takes " + wanted,
                "On the host: python -m edge.build --from BUNDLE --backend tensorrt --tensorrt " + oldest);
}

// The library of our two operations: as given, else as the environment says, else beside this program.
fs::path find_plugin(const Arguments& arguments) {
    const char* named = std::getenv(PLUGIN_VARIABLE);
    const auto given = arguments.text("--plugin");
    const fs::path path = given ? fs::path(*given) : named && *named ? fs::path(named) : program_folder() / PLUGIN_FILE;
    std::error_code ignored;
    if (fs::is_regular_file(path, ignored)) return path;
    throw Error("backend", "The graph needs the plugin library, and " + path.string() + " is not a file",
                std::string("Build it (docs/jetson.md), and pass it by --plugin or ") + PLUGIN_VARIABLE);
}

// With as much workspace as works; what must be fp32 is obeyed, else preferred.
json build_stage(Order order) {
    Answer answer;
    for (const double share : LADDER) {
        order.share = share;
        for (const bool obey : {true, false}) {
            order.obey = obey;
            answer = in_child([&] { return build_plan(order); });
            if (!answer.facts.is_null() || !answer.gave_up) break;
        }
        if (!answer.facts.is_null() || !(answer.gave_up || answer.killed)) break;
    }
    json facts = answer.require();
    // An account of its layers is never worth the plan: by itself, for a real inspector may crash.
    answer = in_child([&] { return describe_plan(order); });
    facts["layers"] = answer.error.empty() ? answer.facts : json{{"unread", answer.error}};
    return facts;
}

// Loads the finished folder and lets it answer once; why it does not, else nothing.
std::string try_bundle(const fs::path& folder) {
    const Answer answer = in_child([&]() -> json {
        const Engine engine = Engine::load(folder);
        const auto side = static_cast<std::size_t>(engine.image().size);
        const std::vector<float> nothing(3 * side * side);
        engine.image().uint8 ? engine.infer(reinterpret_cast<const std::uint8_t*>(nothing.data()), 1)
                             : engine.infer(nothing.data(), 1);
        return true;
    });
    return answer.error;
}

void build(const Arguments& arguments) {
    const fs::path from = arguments[0], out = arguments[1];
    const auto batch = arguments.number("--batch", 1, MAX_BATCH);
    const auto level = arguments.number("--level", 0, 5);
    const auto result = arguments.text("--json"), timings = arguments.text("--cache");
    if (level && !has_levels())
        throw Error("options", "TensorRT " + tensorrt_version() + " has no optimisation levels", "Leave out --level");
    for (const auto& file : {result, timings})
        if (file) check_writable(*file);
    const Source source = read_source(from);
    check_lowering(source);
    const Sizes sizes = choose_sizes(source, batch, arguments.has("--only"), shares_profiles());
    NewFolder folder(out, arguments.has("--force"));
    const json gpu = in_child(describe_gpu).require();
    std::vector<Stage> stages = copy_files(source, sizes, folder.path());

    Order order;
    order.precision = source.bundle.precision;
    order.max_batch = sizes.batches.back();
    order.level = static_cast<int>(level.value_or(LEVEL));
    order.timings = timings ? fs::absolute(*timings) : folder.path() / TIMINGS;
    json engine{{"plugin", nullptr},
                {"level", has_levels() ? json(order.level) : json()},
                {"compute_capabilities", json::array()},
                {"typing", lowering_here() == std::string("tensorrt") ? "strong" : "weak"},
                {"regions", "standard nodes"},
                {"machine", gpu}};
    if (std::any_of(stages.begin(), stages.end(), needs_plugin)) {
        order.plugin = folder.path() / PLUGIN;
        engine["plugin"] = {{"file", PLUGIN}, {"sha256", copy_with_digest(find_plugin(arguments), order.plugin)}};
        engine["regions"] = "plugin";
    }
    for (Stage& stage : stages) {
        order.graph = std::move(stage.graph);
        order.profiles = stage.profiles;
        order.plan = folder.path() / plan_file(stage.name);
        std::fprintf(stderr, "building   %s for %s\n", order.plan.filename().c_str(),
                     gpu["gpu"].get<std::string>().c_str());
        const json facts = build_stage(order);
        std::fprintf(stderr, "built      %s in %.1f s\n", order.plan.filename().c_str(),
                     facts["seconds"].get<double>());
        if (stage.name.empty())
            engine.update(facts);
        else
            engine["stages"][stage.name] = facts;
    }
    std::error_code ignored;
    fs::remove(folder.path() / TIMINGS, ignored);
    const json versions{{"mcar_edge_build", MCAR_EDGE_VERSION}, {"tensorrt", tensorrt_version()}};
    const auto manifest = write_manifest(source, sizes, engine, gpu["gpu"], versions, folder.path());
    // A plan that was built is worth more than this check: it is kept, and what is wrong is said.
    const std::string wrong = try_bundle(folder.path());
    check_interrupted();
    folder.keep();
    if (!wrong.empty())
        std::fprintf(stderr, "warning: the bundle was built, and does not run here: %s\n", wrong.c_str());
    std::printf("bundle     %s\nnext       mcar_edge_bench %s\n", out.c_str(), out.c_str());
    if (result) {
        const nlohmann::ordered_json content{{"bundle", out.string()}, {"manifest", manifest}};
        write_file(*result, content.dump(1, ' ', true) + "\n");
    }
}

}  // namespace
}  // namespace edge::tools

int main(int count, char** words) {
    using namespace edge::tools;
    const Arguments arguments(
        count, words, "mcar_edge_build",
        "Build the plans of a bundle with this device's TensorRT, on the GPU they shall run on. BUNDLE comes from the "
        "host:\n"
        "python -m edge.build --backend tensorrt --tensorrt VERSION. OUT is the device's bundle.",
        {"BUNDLE", "OUT"},
        {{"--batch", "N", "largest batch (default: as BUNDLE has it)"},
         {"--only", "", "for that batch alone: quicker to build; fewer images take as long, fewer regions not always"},
         {"--plugin", "FILE",
          "plugin library (default: EDGE_TENSORRT_PLUGIN, else libedge_plugin.so beside this program)"},
         {"--level", "0..5", "how long to look for quick kernels (default 3; not in TensorRT 8.5)"},
         {"--cache", "FILE", "timings of kernels, read if there and written: later builds are quicker"},
         {"--force", "", "replace OUT if it is a bundle"},
         {"--json", "FILE", "also write the result as JSON"}});
    catch_signals();
    return run([&] { build(arguments); });
}
