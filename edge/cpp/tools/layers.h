// What an engine is made of, from the inspector's JSON of TensorRT 8 to 11; as edge/backends/trt/layers.py.
#pragma once

#include <nlohmann/json.hpp>
#include <string_view>

namespace edge::tools {

// For the manifest: how many layers, of which precisions, how many only change format or type; or `unread`, why not.
nlohmann::json layer_facts(std::string_view information);

}  // namespace edge::tools
