#include "plan.h"

#include <NvInfer.h>
#include <NvOnnxParser.h>

#include <algorithm>
#include <chrono>
#include <cmath>
#include <fstream>
#include <map>
#include <memory>
#include <set>

#include "child.h"
#include "files.h"
#include "layers.h"
#include "runner.h"
#include "tensorrt_version.h"

namespace edge::tools {
namespace {

using nlohmann::json;
using nvinfer1::LayerType;

constexpr int KERNEL_MAX_SIZE = 1024;  // as edge/ops/region_boxes.py
constexpr std::uintmax_t MAX_TIMINGS = 1u << 30, MAX_PLAN = std::uintmax_t{1} << 40;
// In graphs for version 8: how the names of nodes begin that must be computed in fp32.
[[maybe_unused]] constexpr const char* FLOAT32 = "float32/";

const char* name_of(LayerType type) {
    switch (type) {
        case LayerType::kACTIVATION: return "ACTIVATION";
        case LayerType::kCONCATENATION: return "CONCATENATION";
        case LayerType::kCONSTANT: return "CONSTANT";
        case LayerType::kCONVOLUTION: return "CONVOLUTION";
        case LayerType::kDEQUANTIZE: return "DEQUANTIZE";
        case LayerType::kELEMENTWISE: return "ELEMENTWISE";
        case LayerType::kGATHER: return "GATHER";
        case LayerType::kIDENTITY: return "IDENTITY";
        case LayerType::kMATRIX_MULTIPLY: return "MATRIX_MULTIPLY";
        case LayerType::kPLUGIN_V2: return "PLUGIN_V2";
        case LayerType::kPOOLING: return "POOLING";
        case LayerType::kQUANTIZE: return "QUANTIZE";
        case LayerType::kREDUCE: return "REDUCE";
        case LayerType::kSCALE: return "SCALE";
        case LayerType::kSELECT: return "SELECT";
        case LayerType::kSHAPE: return "SHAPE";
        case LayerType::kSHUFFLE: return "SHUFFLE";
        case LayerType::kSLICE: return "SLICE";
        case LayerType::kSOFTMAX: return "SOFTMAX";
        case LayerType::kTOPK: return "TOPK";
        case LayerType::kUNARY: return "UNARY";
#if EDGE_TENSORRT >= 80600
        case LayerType::kCAST: return "CAST";
        case LayerType::kNORMALIZATION: return "NORMALIZATION";
#endif
#if EDGE_TENSORRT >= 100000
        case LayerType::kPLUGIN_V3: return "PLUGIN_V3";
#endif
        default: return "OTHER";
    }
}

const char* name_of(nvinfer1::DataType type) {
    using nvinfer1::DataType;
    switch (type) {
        case DataType::kFLOAT: return "FLOAT";
        case DataType::kHALF: return "HALF";
        case DataType::kINT8: return "INT8";
        case DataType::kINT32: return "INT32";
        case DataType::kBOOL: return "BOOL";
#if EDGE_TENSORRT >= 100000
        case DataType::kINT64: return "INT64";
        case DataType::kBF16: return "BF16";
#endif
        default: return "OTHER";
    }
}

// What the parser made of the graph: layers by kind, first outputs by type, and how many convolutions compute in int8.
json describe(const nvinfer1::INetworkDefinition& network) {
    std::map<std::string, int> kinds, types;
    std::set<const nvinfer1::ITensor*> dequantised;
    std::vector<const nvinfer1::ITensor*> convolutions;
    for (int i = 0; i < network.getNbLayers(); ++i) {
        const nvinfer1::ILayer& layer = *network.getLayer(i);
        ++kinds[name_of(layer.getType())];
        if (const nvinfer1::ITensor* output = layer.getOutput(0)) ++types[name_of(output->getType())];
        if (layer.getType() == LayerType::kDEQUANTIZE) dequantised.insert(layer.getOutput(0));
        if (layer.getType() == LayerType::kCONVOLUTION) convolutions.push_back(layer.getInput(0));
    }
    const auto reads_int8 = [&](const nvinfer1::ITensor* each) { return dequantised.count(each) > 0; };
    return {{"layers", network.getNbLayers()},
            {"kinds", kinds},
            {"types", types},
            {"convolutions", convolutions.size()},
            {"int8_convolutions", std::count_if(convolutions.begin(), convolutions.end(), reads_int8)}};
}

unsigned network_flags() {
#if NV_TENSORRT_MAJOR >= 11
    return 0;  // it has no other networks than those that are strongly typed
#elif NV_TENSORRT_MAJOR >= 10
    return 1u << static_cast<unsigned>(nvinfer1::NetworkDefinitionCreationFlag::kSTRONGLY_TYPED);
#else
    return 1u << static_cast<unsigned>(nvinfer1::NetworkDefinitionCreationFlag::kEXPLICIT_BATCH);
#endif
}

#if NV_TENSORRT_MAJOR < 10
// Holds a layer to fp32 where it computes numbers; whether it did.
bool hold_in_float32(nvinfer1::ILayer& layer) {
    switch (layer.getType()) {
        case LayerType::kSHAPE:
        case LayerType::kCONSTANT:
        case LayerType::kPLUGIN:
        case LayerType::kPLUGIN_V2:
        case LayerType::kQUANTIZE:
        case LayerType::kDEQUANTIZE: return false;
        default: break;
    }
    const auto is_float = [](const nvinfer1::ITensor* each) {
        return each && !each->isShapeTensor() &&
               (each->getType() == nvinfer1::DataType::kFLOAT || each->getType() == nvinfer1::DataType::kHALF);
    };
    if (!is_float(layer.getOutput(0))) return false;
    layer.setPrecision(nvinfer1::DataType::kFLOAT);
    for (int i = 0; i < layer.getNbOutputs(); ++i)
        if (is_float(layer.getOutput(i))) layer.setOutputType(i, nvinfer1::DataType::kFLOAT);
    return true;
}

// Kernels of libraries that are not installed would fail the build.
void leave_out_missing_libraries(nvinfer1::IBuilderConfig& config) {
    using nvinfer1::TacticSource;
    const std::pair<TacticSource, std::vector<const char*>> libraries[] = {
        {TacticSource::kCUBLAS, {"libcublas.so.12", "libcublas.so.11"}},
        {TacticSource::kCUBLAS_LT, {"libcublasLt.so.12", "libcublasLt.so.11"}},
        {TacticSource::kCUDNN, {"libcudnn.so.8"}}};
    nvinfer1::TacticSources sources = config.getTacticSources();
    for (const auto& [source, names] : libraries) {
        const auto loads = [](const char* name) { return dlopen(name, RTLD_LAZY | RTLD_LOCAL) != nullptr; };
        if (std::none_of(names.begin(), names.end(), loads)) sources &= ~(1u << static_cast<unsigned>(source));
    }
    config.setTacticSources(sources);
}
#endif

// Types by flags in version 8, else by the graph. Whether constraints hold: obeyed, preferred, or null where there are
// none.
json set_types(nvinfer1::INetworkDefinition& network, nvinfer1::IBuilderConfig& config, const Order& order) {
    // Products of 10-bit mantissas would move boxes; what shall be quicker than float32 is typed so.
    config.clearFlag(nvinfer1::BuilderFlag::kTF32);
#if NV_TENSORRT_MAJOR < 10
    leave_out_missing_libraries(config);
    if (order.precision == "fp32") return nullptr;
    config.setFlag(nvinfer1::BuilderFlag::kFP16);
    if (order.precision == "int8") config.setFlag(nvinfer1::BuilderFlag::kINT8);
    int held = 0;
    for (int i = 0; i < network.getNbLayers(); ++i) {
        nvinfer1::ILayer& layer = *network.getLayer(i);
        if (std::string_view(layer.getName()).rfind(FLOAT32, 0) == 0) held += hold_in_float32(layer);
    }
    if (!held) return nullptr;
    config.setFlag(order.obey ? nvinfer1::BuilderFlag::kOBEY_PRECISION_CONSTRAINTS
                              : nvinfer1::BuilderFlag::kPREFER_PRECISION_CONSTRAINTS);
    return order.obey ? "obeyed" : "preferred";
#else
    static_cast<void>(network), static_cast<void>(order);
    return nullptr;
#endif
}

void parse(nvinfer1::INetworkDefinition& network, const Order& order, trt::Logger& logger) {
    nvonnxparser::IParser* const parser = nvonnxparser::createParser(network, logger);
    if (parser && parser->parse(order.graph.data(), order.graph.size())) return;
    std::string errors;
    for (int i = 0; parser && i < parser->getNbErrors(); ++i)
        errors += (i ? "; " : "") + std::string(parser->getError(i)->desc());
    if (errors.empty()) errors = logger.last();
    throw Error("backend", "The parser refuses the graph: " + errors.substr(0, 300),
                "Report the graph, or use another backend");
}

// Refuses what is not a stage of ours; gives its inputs.
std::vector<nvinfer1::ITensor*> inputs_of(const nvinfer1::INetworkDefinition& network, const Order& order) {
    std::vector<nvinfer1::ITensor*> inputs;
    const nvinfer1::ITensor* image = nullptr;
    for (int i = 0; i < network.getNbInputs(); ++i) {
        inputs.push_back(network.getInput(i));
        if (inputs.back()->getName() == std::string_view(INPUT)) image = inputs.back();
    }
    if (!image || image->getDimensions().nbDims != 4)
        throw Error("backend", "The graph has no input named image of shape (B, 3, S, S)", "Build the bundle again");
    const auto side = image->getDimensions().d[2];  // also of (B, S, S, 3)
    if (!order.plugin.empty() && side > KERNEL_MAX_SIZE)
        throw Error("backend",
                    "The kernel that finds boxes supports images up to " + std::to_string(KERNEL_MAX_SIZE) +
                        " px, and this model has " + std::to_string(side) + " px",
                    "Use a smaller size");
    return inputs;
}

void add_profiles(nvinfer1::IBuilder& builder, nvinfer1::IBuilderConfig& config,
                  const std::vector<nvinfer1::ITensor*>& inputs, const Order& order) {
    using nvinfer1::OptProfileSelector;
    constexpr OptProfileSelector SELECTORS[] = {OptProfileSelector::kMIN, OptProfileSelector::kOPT,
                                                OptProfileSelector::kMAX};
    for (const Profile& sizes : order.profiles) {
        nvinfer1::IOptimizationProfile* profile = builder.createOptimizationProfile();
        for (nvinfer1::ITensor* input : inputs) {
            const bool of_images = inputs.size() > 1 && input->getName() == std::string_view(INPUT);
            for (std::size_t i = 0; i < sizes.size(); ++i) {
                nvinfer1::Dims shape = input->getDimensions();
                shape.d[0] = static_cast<trt::Extent>(of_images ? (i == 0 ? 1 : order.max_batch) : sizes[i]);
                profile->setDimensions(input->getName(), SELECTORS[i], shape);
            }
        }
        config.addOptimizationProfile(profile);
    }
}

std::size_t free_memory() {
    int integrated = 0;
    trt::check(cudaDeviceGetAttribute(&integrated, cudaDevAttrIntegrated, 0), "cudaDeviceGetAttribute");
    if (integrated) {  // CUDA does not count what the kernel would give back
        std::ifstream table("/proc/meminfo");
        for (std::string line; std::getline(table, line);)
            if (line.rfind("MemAvailable:", 0) == 0) return std::stoull(line.substr(13)) * 1024;
    }
    std::size_t free = 0, total = 0;
    trt::check(cudaMemGetInfo(&free, &total), "cudaMemGetInfo");
    return free;
}

// Those of earlier builds where they are of this GPU and version, else none.
void use_timings(nvinfer1::IBuilderConfig& config, const Order& order) {
    std::string known;
    std::error_code ignored;
    if (std::filesystem::exists(order.timings, ignored)) known = read_file(order.timings, MAX_TIMINGS);
    const nvinfer1::ITimingCache* cache = config.createTimingCache(known.data(), known.size());
    if (cache && config.setTimingCache(*cache, false)) return;
    cache = config.createTimingCache(nullptr, 0);
    if (cache) config.setTimingCache(*cache, false);
}

void keep_timings(const nvinfer1::IBuilderConfig& config, const Order& order) {
    try {
        const nvinfer1::ITimingCache* cache = config.getTimingCache();
        const std::unique_ptr<nvinfer1::IHostMemory> data(cache ? cache->serialize() : nullptr);
        if (data) write_file(order.timings, {static_cast<const char*>(data->data()), data->size()});
    } catch (const std::exception&) {
        // Timings that cannot be kept cost the next build time only.
    }
}

void register_plugin(const Order& order, trt::Logger& logger) {
    if (order.plugin.empty() || trt::has_plugin()) return;
    if (const std::string reason = trt::load_plugin(order.plugin.string(), logger); !reason.empty())
        throw Error("backend", "TensorRT " + tensorrt_version() + " refuses the plugin library: " + reason,
                    "Build it for this version, and pass it by --plugin");
}

}  // namespace

const char* lowering_here() { return NV_TENSORRT_MAJOR < 10 ? "tensorrt-8" : "tensorrt"; }

std::string tensorrt_version() { return trt::library_version(); }

bool has_levels() { return EDGE_TENSORRT >= 80600; }

bool shares_profiles() { return trt::SHARES_PROFILES; }

json describe_gpu() {
    int count = 0;
    const cudaError_t code = cudaGetDeviceCount(&count);
    if (code != cudaSuccess || count == 0)
        throw Error("backend",
                    std::string("A plan must be built on the GPU that will run it, and none was found: ") +
                        (code == cudaSuccess ? "no device" : cudaGetErrorString(code)),
                    "Run it on a machine with an NVIDIA GPU and driver");
    cudaDeviceProp facts{};
    trt::check(cudaGetDeviceProperties(&facts, 0), "cudaGetDeviceProperties");
    int driver = 0, runtime = 0;
    trt::check(cudaDriverGetVersion(&driver), "cudaDriverGetVersion");
    trt::check(cudaRuntimeGetVersion(&runtime), "cudaRuntimeGetVersion");
    const auto version = [](int number) {
        return std::to_string(number / 1000) + "." + std::to_string(number % 1000 / 10);
    };
    return {{"version", tensorrt_version()},
            {"gpu", facts.name},
            {"compute_capability", std::to_string(facts.major) + "." + std::to_string(facts.minor)},
            {"driver", version(driver)},
            {"cuda", version(runtime)}};
}

// What TensorRT makes here is never destroyed: the process ends once it has answered, and what fails while it is taken
// down must not spoil a good plan. The weights of the network are the parser's, which thus lives long enough too.
json build_plan(const Order& order) {
    trt::Logger& logger = *new trt::Logger;
    trt::check(cudaSetDevice(0), "cudaSetDevice");
    nvinfer1::IBuilder* const builder = nvinfer1::createInferBuilder(logger);
    if (!builder)
        throw Error("backend", "TensorRT could not create a builder: " + logger.last(),
                    "Check its installation and the driver");
    register_plugin(order, logger);  // before parsing: the parser looks its nodes up there
    nvinfer1::INetworkDefinition* const network = builder->createNetworkV2(network_flags());
    if (!network)
        throw Error("backend", "TensorRT could not create a network: " + logger.last(), "Report this message");
    parse(*network, order, logger);
    const std::vector<nvinfer1::ITensor*> inputs = inputs_of(*network, order);
    nvinfer1::IBuilderConfig* const config = builder->createBuilderConfig();
    config->setProfilingVerbosity(nvinfer1::ProfilingVerbosity::kDETAILED);
#if EDGE_TENSORRT >= 80600
    config->setBuilderOptimizationLevel(order.level);
#endif
#if EDGE_TENSORRT >= 80600 && EDGE_TENSORRT < 100000
    // As later versions always have it: threads that call at once have a context each, for the same sizes.
    config->setPreviewFeature(nvinfer1::PreviewFeature::kPROFILE_SHARING_0806, true);
#endif
    const auto workspace = static_cast<std::size_t>(order.share * static_cast<double>(free_memory()));
    config->setMemoryPoolLimit(nvinfer1::MemoryPoolType::kWORKSPACE, workspace);
    const json constraints = set_types(*network, *config, order);
    add_profiles(*builder, *config, inputs, order);
    use_timings(*config, order);

    json parsed = describe(*network);
    const auto start = std::chrono::steady_clock::now();
    const nvinfer1::IHostMemory* const plan = builder->buildSerializedNetwork(*network, *config);
    const std::chrono::duration<double> taken = std::chrono::steady_clock::now() - start;
    keep_timings(*config, order);
    if (!plan) {
        const Error error("backend",
                          "The builder of TensorRT " + tensorrt_version() + " made no plan: " + logger.last(),
                          "Close other programs, or build with a smaller --batch; else report the graph");
        throw NoPlan(error.what());
    }
    write_file(order.plan, {static_cast<const char*>(plan->data()), plan->size()});
    return {{"payload", order.plan.filename().string()},
            {"profiles", order.profiles},
            {"workspace", workspace},
            {"seconds", std::round(taken.count() * 10) / 10},
            {"constraints", constraints},
            {"network", std::move(parsed)},
            {"plan_bytes", plan->size()}};
}

json describe_plan(const Order& order) {
    trt::Logger& logger = *new trt::Logger;
    register_plugin(order, logger);
    const std::string plan = read_file(order.plan, MAX_PLAN);
    nvinfer1::IRuntime* const runtime = nvinfer1::createInferRuntime(logger);
    nvinfer1::ICudaEngine* const engine = runtime ? runtime->deserializeCudaEngine(plan.data(), plan.size()) : nullptr;
    if (!engine) return {{"unread", "TensorRT does not load the plan: " + logger.last()}};
    nvinfer1::IEngineInspector* const inspector = engine->createEngineInspector();
    const char* told = inspector ? inspector->getEngineInformation(nvinfer1::LayerInformationFormat::kJSON) : nullptr;
    return told ? layer_facts(told) : json{{"unread", "The inspector says nothing: " + logger.last()}};
}

}  // namespace edge::tools
