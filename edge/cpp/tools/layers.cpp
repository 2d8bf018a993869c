#include "layers.h"

#include <algorithm>
#include <cmath>
#include <map>
#include <string>
#include <utility>
#include <vector>

namespace edge::tools {
namespace {

using nlohmann::json;

// Words the libraries use for a type, by our name for it; longer words first where one holds another.
const std::vector<std::pair<const char*, std::vector<const char*>>> TYPES = {
    {"bf16", {"bfloat16", "bf16"}},
    {"fp16", {"fp16", "half", "float16"}},
    {"fp8", {"fp8"}},
    {"uint8", {"uint8"}},
    {"int8", {"int8"}},
    {"int64", {"int64"}},
    {"int32", {"int32"}},
    {"bool", {"bool"}},
    {"fp32", {"fp32", "float32", "float", "tf32"}}};
constexpr const char* CONVOLUTIONS[] = {"convolution",         "caskconvolution",          "cudnnconvolution",
                                        "caskgemmconvolution", "cudadepthwiseconvolution", "conv"};

struct Layer {
    std::string kind, precision, output;
};

std::string lower(std::string text) {
    std::transform(text.begin(), text.end(), text.begin(), [](unsigned char each) { return std::tolower(each); });
    return text;
}

std::string text_of(const json& object, const char* name) {
    const auto found = object.find(name);
    return found == object.end() ? "" : found->is_string() ? found->get<std::string>() : found->dump();
}

// Version 10 says type and format in one sentence, version 11 may say them one by one.
std::string type_of(const json& entry, const char* side) {
    const auto tensors = entry.find(side);
    if (tensors == entry.end() || !tensors->is_array() || tensors->empty()) return "";
    const json& first = tensors->front();
    const std::string words =
        lower(first.contains("Format/Datatype") ? text_of(first, "Format/Datatype")
                                                : text_of(first, "Datatype") + " " + text_of(first, "Format"));
    for (const auto& [name, spellings] : TYPES)
        for (const char* spelling : spellings)
            if (words.find(spelling) != std::string::npos) return name;
    return "";
}

Layer layer_of(const json& entry) {
    if (entry.is_string()) return {};  // an engine without detail holds names only
    std::string kind = lower(text_of(entry, "LayerType"));
    if (kind.empty() || kind == "kgen" || kind == "gemm" || kind == "conv")
        if (const std::string own = lower(text_of(entry, "ParameterType")); !own.empty()) kind = own;
    return {kind, type_of(entry, "Inputs"), type_of(entry, "Outputs")};
}

}  // namespace

json layer_facts(std::string_view information) {
    // Its strings hold raw control characters, which no JSON may.
    std::string text(information);
    std::replace_if(text.begin(), text.end(), [](unsigned char each) { return each < 0x20; }, ' ');
    try {
        const json::array_t listed = json::parse(text).at("Layers");  // throws where it is no array
        std::map<std::string, int> precisions;
        int reformats = 0, casts = 0, convolutions = 0, int8 = 0;
        for (const json& entry : listed) {
            const Layer layer = layer_of(entry);
            ++precisions[layer.precision];
            const bool same = layer.precision == layer.output;
            reformats += layer.kind == "reformat" && same;  // a NoOp renames a format and moves nothing
            casts += layer.kind == "cast" || (layer.kind == "reformat" && !same);
            if (std::find(std::begin(CONVOLUTIONS), std::end(CONVOLUTIONS), layer.kind) == std::end(CONVOLUTIONS))
                continue;
            convolutions += !layer.precision.empty();  // TensorRT 8 tells none where sizes are open
            int8 += layer.precision == "int8";
        }
        const json share = convolutions ? json(std::round(1e4 * int8 / convolutions) / 1e4) : json();
        return {{"layers", listed.size()},
                {"precisions", precisions},
                {"reformats", reformats},
                {"casts", casts},
                {"int8_share", share}};
    } catch (const json::exception&) {
        return {{"unread", "The inspector's answer is no JSON with layers: '" + text.substr(0, 80) + "'"}};
    }
}

}  // namespace edge::tools
