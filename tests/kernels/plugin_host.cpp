// Calls the plugin as TensorRT's builder and runtime would, without TensorRT and without a GPU: the launches are
// replaced by functions that write down what they were asked. Prints every expectation that fails; exit status is their
// number.

#include <NvInfer.h>

#include <array>
#include <cmath>
#include <cstdio>
#include <cstring>
#include <string>
#include <utility>

#include "launch.h"
#include "plugin/operation.h"  // defines: ILoggerFinder where TensorRT 8.5 has none

using namespace nvinfer1;

extern "C" void setLoggerFinder(ILoggerFinder* finder);

static int failures = 0;
#define EXPECT(condition) \
    if (!(condition)) std::printf("line %d: %s\n", __LINE__, #condition), ++failures

// ----------------------------------------------------------------------------
// what the plugin launches

static struct {
    int calls, half_image, images, crops, height, width, size, format, count, grid;
    float threshold;
    const void *image, *boxes, *owner;
    void* out;
    cudaStream_t stream;
} launched;

extern "C" int edge_roi_resize(const void* image, int half_image, const float* boxes, const int* owner, int images,
                               int crops, int height, int width, int size, int format, void* out, cudaStream_t stream) {
    launched = {launched.calls + 1,
                half_image,
                images,
                crops,
                height,
                width,
                size,
                format,
                0,
                0,
                0,
                image,
                boxes,
                owner,
                out,
                stream};
    return 0;
}

extern "C" int edge_region_boxes(const float* maps, int count, int grid, int size, float threshold, float* boxes,
                                 cudaStream_t stream) {
    launched = {launched.calls + 1, 0,    0,       0,       0,     0,     size, 0, count, grid,
                threshold,          maps, nullptr, nullptr, boxes, stream};
    return 0;
}

// ----------------------------------------------------------------------------
// TensorRT's side

struct Logger : ILogger {
    std::string last;
    void log(Severity, const char* message) noexcept override { last = message; }
};

static struct Finder final : ILoggerFinder {
    Logger logger;
    ILogger* findLogger() noexcept override { return &logger; }
} finder;

// Symbolic sizes, here plain numbers.
using Size = decltype(std::declval<IDimensionExpr&>().getConstantValue());  // int32 before TensorRT 10

struct Number final : apiv::VDimensionExpr, IDimensionExpr {
    explicit Number(Size value) : value(value) { mImpl = this; }
    bool isConstant() const noexcept override { return true; }
    Size getConstantValue() const noexcept override { return value; }
#if NV_TENSORRT_MAJOR >= 10
    bool isSizeTensor() const noexcept override { return false; }
#endif
    Size value;
};

struct Numbers final : apiv::VExprBuilder, IExprBuilder {
    Numbers() { mImpl = this; }
    const IDimensionExpr* constant(Size value) noexcept override { return new Number(value); }
    const IDimensionExpr* operation(DimensionOperation op, const IDimensionExpr& a,
                                    const IDimensionExpr& b) noexcept override {
        EXPECT(op == DimensionOperation::kPROD);
        return new Number(a.getConstantValue() * b.getConstantValue());
    }
#if NV_TENSORRT_MAJOR >= 10
    const IDimensionExpr* declareSizeTensor(int32_t, const IDimensionExpr&, const IDimensionExpr&) override {
        return nullptr;
    }
#endif
};

static Dims dims(std::initializer_list<int64_t> sizes) {
    Dims made{};
    for (int64_t size : sizes) made.d[made.nbDims++] = size;
    return made;
}

static DimsExprs symbols(std::initializer_list<int64_t> sizes) {
    DimsExprs made{};
    for (int64_t size : sizes) made.d[made.nbDims++] = new Number(size);
    return made;
}

static PluginTensorDesc tensor(Dims sizes, DataType type, TensorFormat format = TensorFormat::kLINEAR) {
    PluginTensorDesc made{};
    made.dims = sizes;
    made.type = type;
    made.format = format;
    made.scale = -1;  // only meaningful in implicit quantisation: the plugin must not use it
    return made;
}

// Node and Creator: a plugin and a creator of the interface that the headers are for.
#if NV_TENSORRT_MAJOR >= 10
#include "plugin_host_v3.h"
#else
#include "plugin_host_v2.h"
#endif

// As the parser gives the attributes of a node; what an operation does not know it does not read.
static auto create(const Creator& creator, int32_t size, float threshold = 0.5f) {
    const PluginField fields[] = {{"threshold", &threshold, PluginFieldType::kFLOAT32, 1},
                                  {"size", &size, PluginFieldType::kINT32, 1}};
    const PluginFieldCollection collection = {2, fields};
    return creator.make(&collection);
}

// Whether the builder may choose these types and formats for all tensors.
static bool supports(const Node& plugin, std::initializer_list<PluginTensorDesc> tensors) {
    DynamicPluginTensorDesc described[4] = {};
    int count = 0;
    for (const PluginTensorDesc& each : tensors) described[count++].desc = each;
    for (int i = 0; i < count; ++i) {
        if (!plugin.supports(i, described, count - 1)) return false;
    }
    return true;
}

// ----------------------------------------------------------------------------
// tests

static void check_creator(const Creator& creator, const char* name, int attributes) {
    const std::string& words = finder.logger.last;
    EXPECT(!std::strcmp(creator.name(), name));
    EXPECT(!std::strcmp(creator.version(), "1"));
    EXPECT(!std::strcmp(creator.name_space(), "edge"));
    const PluginFieldCollection* names = creator.names();
    EXPECT(names->nbFields == attributes);
    EXPECT(!std::strcmp(names->fields[0].name, "size") && names->fields[0].type == PluginFieldType::kINT32);

    EXPECT(create(creator, -3) == nullptr);
    for (const char* part : {name, "size must", "got -3", "Expected", "Do export"}) {
        EXPECT(words.find(part) != std::string::npos);
    }
    EXPECT(creator.make(nullptr) == nullptr);
    EXPECT(words.find("got nothing") != std::string::npos);
    const PluginField text[] = {{"size", "448", PluginFieldType::kCHAR, 3}};
    const PluginFieldCollection wrong = {1, text};
    EXPECT(creator.make(&wrong) == nullptr);
    EXPECT(words.find("another type") != std::string::npos);
}

static void check_region_boxes(const Creator& creator) {
    const PluginField& second = creator.names()->fields[1];
    EXPECT(!std::strcmp(second.name, "threshold") && second.type == PluginFieldType::kFLOAT32);
    for (float threshold : {-0.5f, 1.0f}) {
        EXPECT(create(creator, 448, threshold) == nullptr);
        EXPECT(finder.logger.last.find("threshold must") != std::string::npos);
    }
    EXPECT(create(creator, 2048) == nullptr);
    const Node plugin(create(creator, 448, 0.3f));
    EXPECT(plugin.outputs() == 1);
    EXPECT(!std::strcmp(plugin.name(), "RegionBoxes"));

    Numbers numbers;
    const DimsExprs in[] = {symbols({8, 4, 14, 14})};
    DimsExprs out{};
    EXPECT(plugin.output_shape(in, 1, out, numbers));
    EXPECT(out.nbDims == 3 && out.d[0]->getConstantValue() == 8 && out.d[1]->getConstantValue() == 4);
    EXPECT(out.d[2]->getConstantValue() == 4);

    const DataType full = DataType::kFLOAT, half = DataType::kHALF;
    EXPECT(plugin.output_type(&full, 1) == DataType::kFLOAT);

    const PluginTensorDesc maps = tensor(dims({8, 4, 14, 14}), full), boxes = tensor(dims({8, 4, 4}), full);
    EXPECT(supports(plugin, {maps, boxes}));
    EXPECT(!supports(plugin, {tensor(maps.dims, half), boxes}));
    EXPECT(!supports(plugin, {maps, tensor(boxes.dims, half)}));
    EXPECT(!supports(plugin, {tensor(maps.dims, full, TensorFormat::kCHW32), boxes}));

    DynamicPluginTensorDesc described[1] = {};
    described[0].desc = tensor(dims({-1, 4, 14, 14}), full);
    EXPECT(plugin.configure(described, 1));
    described[0].desc.dims = dims({-1, 4, 14, 13});
    EXPECT(!plugin.configure(described, 1));
    described[0].desc.dims = dims({-1, 4, 33, 33});
    EXPECT(!plugin.configure(described, 1));

    const void* inputs[] = {reinterpret_cast<void*>(0x100)};
    void* outputs[] = {reinterpret_cast<void*>(0x200)};
    const auto stream = reinterpret_cast<cudaStream_t>(0x300);
    for (const Node& each : {plugin, plugin.clone(), creator.restored(plugin)}) {
        const int calls = launched.calls;
        EXPECT(each.enqueue(&maps, &boxes, inputs, outputs, stream) == 0);
        EXPECT(launched.calls == calls + 1 && launched.count == 32 && launched.grid == 14 && launched.size == 448);
        EXPECT(launched.threshold == 0.3f && launched.image == inputs[0] && launched.out == outputs[0]);
        EXPECT(launched.stream == stream);
        const PluginTensorDesc tall = tensor(dims({8, 4, 14, 13}), full);
        EXPECT(each.enqueue(&tall, &boxes, inputs, outputs, stream) != 0 && launched.calls == calls + 1);
    }
}

// The third input: boxes of one rank less, and an owner for each.
static void check_owner(const Node& plugin) {
    Numbers numbers;
    const DimsExprs in[] = {symbols({8, 3, 448, 448}), symbols({5, 4}), symbols({5})};
    DimsExprs out{};
    EXPECT(plugin.output_shape(in, 3, out, numbers));
    const int64_t expected[] = {5, 3, 448, 448};
    EXPECT(out.nbDims == 4);
    for (int i = 0; i < 4; ++i) EXPECT(out.d[i]->getConstantValue() == expected[i]);
    EXPECT(!plugin.output_shape(in, 2, out, numbers));

    const DataType full = DataType::kFLOAT, half = DataType::kHALF, whole = DataType::kINT32;
    const DataType types[] = {half, full, whole};
    EXPECT(plugin.output_type(types, 3) == half);

    const PluginTensorDesc image = tensor(dims({8, 3, 448, 448}), half), boxes = tensor(dims({5, 4}), full);
    const PluginTensorDesc owner = tensor(dims({5}), whole), crops = tensor(dims({5, 3, 448, 448}), half);
    EXPECT(supports(plugin, {image, boxes, owner, crops}));
    EXPECT(supports(plugin, {image, boxes, owner, tensor(crops.dims, half, TensorFormat::kHWC8)}));
    EXPECT(!supports(plugin, {image, boxes, tensor(owner.dims, kNotAnOwner), crops}));
    EXPECT(!supports(plugin, {image, boxes, tensor(owner.dims, whole, TensorFormat::kHWC8), crops}));
    EXPECT(!supports(plugin, {image, boxes, owner, tensor(crops.dims, full)}));

    DynamicPluginTensorDesc described[3] = {};
    for (int i = 0; i < 3; ++i) described[i].desc = std::array{image, boxes, owner}[i];
    described[1].desc.dims.d[0] = described[2].desc.dims.d[0] = -1;
    EXPECT(plugin.configure(described, 3));
    EXPECT(!plugin.configure(described, 2));
    described[1].desc.dims = dims({8, -1, 4});
    EXPECT(!plugin.configure(described, 3));
    EXPECT(plugin.configure(described, 2));

    const PluginTensorDesc inputs[] = {image, boxes, owner};
    const void* addresses[] = {reinterpret_cast<void*>(0x100), reinterpret_cast<void*>(0x200),
                               reinterpret_cast<void*>(0x300)};
    void* outputs[] = {reinterpret_cast<void*>(0x400)};
    EXPECT(plugin.enqueue(inputs, &crops, addresses, outputs, nullptr) == 0);
    EXPECT(launched.images == 8 && launched.crops == 5 && launched.half_image && launched.format == EDGE_FP16_LINEAR);
    EXPECT(launched.image == addresses[0] && launched.boxes == addresses[1] && launched.owner == addresses[2]);
    EXPECT(launched.out == outputs[0]);
    const PluginTensorDesc grey[] = {tensor(dims({8, 1, 448, 448}), half), boxes, owner};
    const int calls = launched.calls;
    EXPECT(plugin.enqueue(grey, &crops, addresses, outputs, nullptr) != 0 && launched.calls == calls);
}

static void check_roi_resize(const Creator& creator) {
    const Node plugin(create(creator, 448));
    Numbers numbers;
    const DimsExprs in[] = {symbols({8, 3, 448, 448}), symbols({8, 4, 4})};
    DimsExprs out{};
    EXPECT(plugin.output_shape(in, 2, out, numbers));
    const int64_t expected[] = {32, 3, 448, 448};
    EXPECT(out.nbDims == 4);
    for (int i = 0; i < 4; ++i) EXPECT(out.d[i]->getConstantValue() == expected[i]);

    const DataType full = DataType::kFLOAT, half = DataType::kHALF;
    const DataType full_in[] = {full, full}, half_in[] = {half, full};
    EXPECT(plugin.output_type(full_in, 2) == full);
    EXPECT(plugin.output_type(half_in, 2) == half);

    DynamicPluginTensorDesc described[2] = {};
    described[0].desc = tensor(dims({-1, 3, 448, 448}), full);
    described[1].desc = tensor(dims({-1, 4, 4}), full);
    EXPECT(plugin.configure(described, 2));
    described[0].desc.dims = dims({-1, 4, 448, 448});
    EXPECT(!plugin.configure(described, 2));

    check_owner(plugin);

    // Every type and format TensorRT knows of: exactly those the kernel writes are offered.
    const Dims image = dims({8, 3, 448, 448}), crops = dims({32, 3, 448, 448});
    const PluginTensorDesc boxes = tensor(dims({8, 4, 4}), full);
    int offered = 0;
    for (int in_type = 0; in_type < EnumMax<DataType>(); ++in_type) {
        for (int out_type = 0; out_type < EnumMax<DataType>(); ++out_type) {
            for (int format = 0; format < EnumMax<TensorFormat>(); ++format) {
                const PluginTensorDesc source = tensor(image, static_cast<DataType>(in_type));
                const PluginTensorDesc made =
                    tensor(crops, static_cast<DataType>(out_type), static_cast<TensorFormat>(format));
                EXPECT(!supports(plugin, {tensor(image, source.type, TensorFormat::kHWC8), boxes, made}));
                EXPECT(!supports(plugin, {source, tensor(boxes.dims, half), made}));
                if (!supports(plugin, {source, boxes, made})) continue;
                ++offered;
                const PluginTensorDesc inputs[] = {source, boxes};
                const void* addresses[] = {reinterpret_cast<void*>(0x100), reinterpret_cast<void*>(0x200)};
                void* outputs[] = {reinterpret_cast<void*>(0x300)};
                EXPECT(plugin.enqueue(inputs, &made, addresses, outputs, nullptr) == 0);
                const bool linear = made.format == TensorFormat::kLINEAR;
                const int written = made.type == full ? EDGE_FP32_LINEAR : linear ? EDGE_FP16_LINEAR : EDGE_FP16_HWC8;
                EXPECT(launched.format == written && launched.half_image == (source.type == half));
                EXPECT(launched.crops == 32 && launched.images == 8 && !launched.owner);
                EXPECT(launched.height == 448 && launched.width == 448 && launched.size == 448);
                EXPECT(launched.image == addresses[0] && launched.boxes == addresses[1]);
                EXPECT(launched.out == outputs[0]);
            }
        }
    }
    EXPECT(offered == 5);  // fp32 to fp32, fp16, hwc8; fp16 to fp16, hwc8
}

int main() {
    const auto [boxes, resize] = creators();
    EXPECT(create(boxes, -1) == nullptr);  // without a logger: refused in silence
    setLoggerFinder(&finder);
    check_creator(boxes, "RegionBoxes", 2);
    check_creator(resize, "RoiResize", 1);
    check_region_boxes(boxes);
    check_roi_resize(resize);
    const Node find(create(boxes, 448, 0.3f)), crop(create(resize, 256));
    check_interface(boxes, resize, find, crop);
    std::printf("%d failures\n", failures);
    return failures;
}
