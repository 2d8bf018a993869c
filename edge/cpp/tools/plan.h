// A plan of TensorRT from the graph of one stage, on the GPU it shall run on; as edge/backends/trt/build.py.
#pragma once

#include <cstddef>
#include <filesystem>
#include <nlohmann/json.hpp>
#include <string>
#include <vector>

#include "rebundle.h"

namespace edge::tools {

constexpr int LEVEL = 3;  // the builder's optimisation level, of 0 to 5

// The row of edge.lower's table that this library takes: strongly typed graphs, or those of version 8.
const char* lowering_here();

// Of the library, as 8.6.1.
std::string tensorrt_version();

// Whether the builder has optimisation levels: 8.5 has none.
bool has_levels();

// Whether contexts may share a profile, so that one can serve several numbers at a time: in 8.5 they do not.
bool shares_profiles();

// The GPU, as a manifest tells of it; refused where there is none.
nlohmann::json describe_gpu();

struct Order {
    std::string graph;  // ONNX
    std::string precision;
    std::vector<Profile> profiles;  // of images; of regions where the graph takes any
    std::size_t max_batch = 1;      // of images that regions are of
    int level = LEVEL;
    double share = 0;               // of the free memory, as workspace
    bool obey = true;               // what must be computed in fp32 is; else where that is as quick
    std::filesystem::path plan;     // to write
    std::filesystem::path plugin;   // to register before; empty for a graph without nodes of ours
    std::filesystem::path timings;  // read where there is such a file, and written
};

// Writes the plan; facts for the manifest. Throws NoPlan where the builder gives up.
nlohmann::json build_plan(const Order& order);

// What the plan is made of, or why it does not tell.
nlohmann::json describe_plan(const Order& order);

}  // namespace edge::tools
