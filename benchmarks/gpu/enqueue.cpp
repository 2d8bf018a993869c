// Loads the built plugin library and runs both plugins as TensorRT would: creators, clone, attach, enqueue in a
// captured stream. Needs TensorRT's headers (8.5 to 11, those that the library was built with) and a GPU, not TensorRT
// itself.
//
//   g++ -std=c++17 -Ikernels -I$TENSORRT_INCLUDE_DIR -I$CUDA/include benchmarks/gpu/enqueue.cpp -L$CUDA/lib64 -lcudart
//   -ldl
//   ./enqueue libedge_plugin.so

#include <NvInferRuntime.h>
#include <cuda_fp16.h>
#include <cuda_runtime_api.h>
#include <dlfcn.h>

#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <random>
#include <vector>

#include "region_boxes/reference.h"  // defines: edge::reference::region_boxes
#include "roi_resize/reference.h"    // defines: edge::reference::roi_resize

using namespace nvinfer1;

#define REQUIRE(condition)                                         \
    if (!(condition)) {                                            \
        std::printf("line %d: %s failed\n", __LINE__, #condition); \
        std::exit(EXIT_FAILURE);                                   \
    }

#if NV_TENSORRT_MAJOR >= 10
using Creator = IPluginCreatorInterface;
using Plugin = IPluginV3OneRuntime;
static const char* const kCreators = "getCreators";

static Plugin* attach(Creator* creator, const PluginFieldCollection& fields) {
    IPluginV3* built = static_cast<IPluginCreatorV3One*>(creator)->createPlugin("node", &fields, TensorRTPhase::kBUILD);
    REQUIRE(built);
    IPluginV3* copy = built->clone();
    auto* runtime = static_cast<Plugin*>(copy->getCapabilityInterface(PluginCapabilityType::kRUNTIME));
    IPluginV3* attached = runtime->attachToContext(nullptr);
    delete built;
    delete copy;
    return static_cast<Plugin*>(attached->getCapabilityInterface(PluginCapabilityType::kRUNTIME));
}
#else
using Creator = IPluginCreator;
using Plugin = IPluginV2DynamicExt;
static const char* const kCreators = "getPluginCreators";

static Plugin* attach(Creator* creator, const PluginFieldCollection& fields) {
    auto* built = static_cast<Plugin*>(creator->createPlugin("node", &fields));
    REQUIRE(built);
    std::vector<char> bytes(built->getSerializationSize());
    built->serialize(bytes.data());
    auto* read = static_cast<Plugin*>(creator->deserializePlugin("node", bytes.data(), bytes.size()));
    REQUIRE(read);
    Plugin* copy = read->clone();
    REQUIRE(copy->initialize() == 0);
    built->destroy();
    read->destroy();
    return copy;
}
#endif

static Plugin* make(Creator* creator, int32_t size, const char* name, float number) {
    const PluginField fields[] = {{"size", &size, PluginFieldType::kINT32, 1},
                                  {name, &number, PluginFieldType::kFLOAT32, number != 0}};
    return attach(creator, {number != 0 ? 2 : 1, fields});
}

static PluginTensorDesc tensor(std::initializer_list<int64_t> sizes, DataType type, TensorFormat format) {
    PluginTensorDesc made{};
    for (int64_t size : sizes) made.dims.d[made.dims.nbDims++] = size;
    made.type = type;
    made.format = format;
    return made;
}

template <typename T>
static T* upload(const std::vector<T>& values) {
    T* data = nullptr;
    REQUIRE(cudaMalloc(reinterpret_cast<void**>(&data), values.size() * sizeof(T)) == cudaSuccess);
    REQUIRE(cudaMemcpy(data, values.data(), values.size() * sizeof(T), cudaMemcpyHostToDevice) == cudaSuccess);
    return data;
}

int main(int, char** argv) {
    void* library = dlopen(argv[1], RTLD_NOW | RTLD_LOCAL);
    if (!library) std::printf("%s\n", dlerror());
    REQUIRE(library);
    using GetCreators = Creator* const* (*)(int32_t&);
    const auto get_creators = reinterpret_cast<GetCreators>(dlsym(library, kCreators));
    REQUIRE(get_creators);
    int32_t count = 0;
    Creator* const* creators = get_creators(count);
    REQUIRE(count == 2);

    const int batch = 2, regions = 4, grid = 14, size = 448, crops = batch * regions;
    std::mt19937 random(0);
    std::normal_distribution<float> normal;
    std::uniform_real_distribution<float> uniform(0, 1);
    std::vector<float> maps(batch * regions * grid * grid), image(batch * 3 * size * size), boxes(crops * 4);
    for (float& value : maps) value = uniform(random);
    std::vector<__half> pixels;
    for (float& value : image) {
        pixels.push_back(__float2half(normal(random)));
        value = __half2float(pixels.back());
    }
    edge::reference::region_boxes(maps.data(), crops, grid, size, 0.5f, boxes.data());
    std::vector<double> truth(static_cast<size_t>(crops) * 3 * size * size);
    edge::reference::roi_resize(image.data(), boxes.data(), nullptr, batch, crops, size, size, size, truth.data());

    Plugin* find = make(creators[0], size, "threshold", 0.5f);
    Plugin* resize = make(creators[1], size, "scale", 0.0f);
    const auto linear = TensorFormat::kLINEAR;
    const PluginTensorDesc map_desc = tensor({batch, regions, grid, grid}, DataType::kFLOAT, linear);
    const PluginTensorDesc box_desc = tensor({batch, regions, 4}, DataType::kFLOAT, linear);
    const PluginTensorDesc inputs[] = {tensor({batch, 3, size, size}, DataType::kHALF, linear), box_desc};
    const PluginTensorDesc out_desc = tensor({crops, 3, size, size}, DataType::kHALF, TensorFormat::kHWC8);

    const float* device_maps = upload(maps);
    const __half* device_image = upload(pixels);
    float* device_boxes = upload(std::vector<float>(crops * 4, NAN));
    std::vector<__half> packed(static_cast<size_t>(crops) * size * size * 8, __float2half(NAN));
    __half* device_out = upload(packed);

    cudaStream_t stream;
    cudaGraph_t graph;
    cudaGraphExec_t executable;
    REQUIRE(cudaStreamCreate(&stream) == cudaSuccess);
    // Once before capturing, as TensorRT asks of its users: a first launch may load code.
    const void* find_inputs[] = {device_maps};
    void* find_outputs[] = {device_boxes};
    const void* resize_inputs[] = {device_image, device_boxes};
    void* resize_outputs[] = {device_out};
    REQUIRE(find->enqueue(&map_desc, &box_desc, find_inputs, find_outputs, nullptr, stream) == 0);
    REQUIRE(resize->enqueue(inputs, &out_desc, resize_inputs, resize_outputs, nullptr, stream) == 0);
    REQUIRE(cudaStreamSynchronize(stream) == cudaSuccess);
    REQUIRE(cudaMemset(device_boxes, 0xff, boxes.size() * sizeof(float)) == cudaSuccess);
    REQUIRE(cudaMemset(device_out, 0xff, packed.size() * sizeof(__half)) == cudaSuccess);
    REQUIRE(cudaStreamBeginCapture(stream, cudaStreamCaptureModeGlobal) == cudaSuccess);
    REQUIRE(find->enqueue(&map_desc, &box_desc, find_inputs, find_outputs, nullptr, stream) == 0);
    REQUIRE(resize->enqueue(inputs, &out_desc, resize_inputs, resize_outputs, nullptr, stream) == 0);
    REQUIRE(cudaStreamEndCapture(stream, &graph) == cudaSuccess);
    REQUIRE(cudaGraphInstantiate(&executable, graph, 0) == cudaSuccess);
    REQUIRE(cudaGraphLaunch(executable, stream) == cudaSuccess);
    REQUIRE(cudaStreamSynchronize(stream) == cudaSuccess);

    REQUIRE(cudaMemcpy(packed.data(), device_out, packed.size() * sizeof(__half), cudaMemcpyDeviceToHost) ==
            cudaSuccess);
    const size_t plane = static_cast<size_t>(size) * size;
    double error = 0, norm = 0;
    for (size_t i = 0; i < packed.size(); ++i) {
        const size_t channel = i % 8, pixel = i / 8 % plane, crop = i / 8 / plane;
        const double right = channel < 3 ? truth[(crop * 3 + channel) * plane + pixel] : 0.0;
        error += std::pow(__half2float(packed[i]) - right, 2);
        norm += right * right;
    }
    const double relative = std::sqrt(error / norm);
    const bool ok = relative <= 4e-4;
    std::printf(
        "{\"check\": \"plugins enqueued in a captured stream, fp16 hwc8: relative error\", \"value\": %.3g, "
        "\"limit\": 4e-4, \"ok\": %s}\n",
        relative, ok ? "true" : "false");
    return ok ? EXIT_SUCCESS : EXIT_FAILURE;
}
