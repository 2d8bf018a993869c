// What TensorRT's backend wrote into a manifest; needs nothing of TensorRT, so every build judges it.
#pragma once

#include <array>
#include <cstdint>
#include <string>
#include <vector>

#include "bundle.h"
#include "values.h"

namespace edge {

struct TensorRtPlan {
    std::string payload, plugin, version, compute_capability;  // plugin: empty for an engine without ours
    std::uint64_t bytes = 0;
    std::vector<std::array<int, 3>> profiles;  // smallest, best, largest batch

    // Throws Error where a fact is of another type or out of range.
    explicit TensorRtPlan(const json& engine) : payload(text(engine, "payload")) {
        if (const json shipped = engine.value("plugin", json()); !shipped.is_null()) {
            if (!shipped.is_object()) refuse_value("plugin", "is of another type");
            plugin = text(shipped, "file");
        }
        bytes = static_cast<std::uint64_t>(
            integer(engine.value("plan_bytes", json(0)), "plan_bytes", 0, std::int64_t{1} << 40));
        for (const json& profile : engine.value("profiles", json::array())) {
            if (!profile.is_array() || profile.size() != 3) refuse_value("profiles", "do not have three batches each");
            std::array<int, 3> batches{};
            for (std::size_t i = 0; i < 3; ++i)
                batches[i] = static_cast<int>(integer(profile[i], "profiles", 1, MAX_BATCH));
            profiles.push_back(batches);
        }
        const json machine = engine.value("machine", json::object());
        if (!machine.is_object()) refuse_value("machine", "is of another type");
        version = text_or_empty(machine, "version");
        compute_capability = text_or_empty(machine, "compute_capability");
    }

    // Names of those that an engine is loaded from.
    std::vector<std::string> files() const {
        return plugin.empty() ? std::vector{payload} : std::vector{payload, plugin};
    }
};

}  // namespace edge
