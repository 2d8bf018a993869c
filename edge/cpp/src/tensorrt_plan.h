// What TensorRT's backend wrote into a manifest; needs nothing of TensorRT, so every build judges it.
#pragma once

#include <array>
#include <cstdint>
#include <map>
#include <string>
#include <utility>
#include <vector>

#include "bundle.h"
#include "runner.h"
#include "values.h"

namespace edge {

// The plan of an engine, or of one of its stages.
struct TensorRtPlan {
    std::string payload, plugin, version, compute_capability;  // plugin: empty for an engine without ours
    std::uint64_t bytes = 0;
    std::vector<std::array<int, 3>> profiles;  // smallest, best, largest size: of images, or of regions

    // most: up to which size profiles go. Throws Error where a fact has the wrong type or out of range.
    TensorRtPlan(const json& facts, std::int64_t most) : payload(text(facts, "payload")) {
        if (const json shipped = facts.value("plugin", json()); !shipped.is_null()) {
            if (!shipped.is_object()) refuse_value("plugin", "has the wrong type");
            plugin = text(shipped, "file");
        }
        bytes = static_cast<std::uint64_t>(
            integer(facts.value("plan_bytes", json(0)), "plan_bytes", 0, std::int64_t{1} << 40));
        for (const json& profile : facts.value("profiles", json::array())) {
            if (!profile.is_array() || profile.size() != 3) refuse_value("profiles", "do not have three sizes each");
            std::array<int, 3> sizes{};
            for (std::size_t i = 0; i < 3; ++i) sizes[i] = static_cast<int>(integer(profile[i], "profiles", 1, most));
            profiles.push_back(sizes);
        }
        const json machine = facts.value("machine", json::object());
        if (!machine.is_object()) refuse_value("machine", "has the wrong type");
        version = text_or_empty(machine, "version");
        compute_capability = text_or_empty(machine, "compute_capability");
    }
};

// By the name of their stage, which is empty for an engine of one graph. What is said of all plans stands beside
// `stages`, as in parts_of of edge/backends/trt/plan.py.
using TensorRtPlans = std::map<std::string, TensorRtPlan>;

inline TensorRtPlans plans_of(const json& engine) {
    TensorRtPlans plans;
    if (engine.contains("unbuilt")) return plans;
    const auto found = engine.find("stages");
    if (found == engine.end() || found->is_null()) {
        plans.emplace("", TensorRtPlan(engine, MAX_BATCH));
        return plans;
    }
    if (!found->is_object() || found->size() != 2 || !found->contains(LOOK) || !found->contains(CLOSER))
        refuse_value("engine", std::string("has stages other than ") + LOOK + " and " + CLOSER);
    json shared = engine;
    shared.erase("stages");
    for (const auto& [stage, most] : {std::pair{LOOK, MAX_BATCH}, std::pair{CLOSER, MAX_REGIONS}}) {
        json facts = shared;
        facts.update(member(*found, stage, json::value_t::object));
        plans.emplace(stage, TensorRtPlan(facts, most));
    }
    return plans;
}

// Refuses a bundle whose plans the device it is for has yet to build.
inline void refuse_unbuilt(const json& engine) {
    const auto found = engine.find("unbuilt");
    if (found == engine.end()) return;
    throw Error("load",
                "The bundle has no engine yet: it must be built on the device, with TensorRT " +
                    text(engine, "unbuilt").substr(0, 40),
                "On the device run mcar_edge_build BUNDLE OUT, or python -m edge.build --from BUNDLE");
}

// Names of those that an engine is loaded from.
inline std::vector<std::string> files_of(const TensorRtPlans& plans) {
    std::vector<std::string> files;
    for (const auto& [stage, plan] : plans) {
        files.push_back(plan.payload);
        if (!plan.plugin.empty()) files.push_back(plan.plugin);
    }
    return files;
}

}  // namespace edge
