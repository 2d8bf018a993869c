// A real TensorRT 8 takes the plugin library: registered, looked up, made, written, read. No GPU is needed.
//
//   plugin_registry load|register LIBNVINFER PLUGIN
//
// load: by IPluginRegistry::loadLibrary (8.6); register: by dlopen and edge_register_plugins (8.5, and 8.6 likewise).
// Prints every expectation that fails; exit status is their number.

#include <NvInfer.h>
#include <dlfcn.h>

#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <string>
#include <vector>

#include "plugin/operation.h"  // defines: ILoggerFinder where TensorRT 8.5 has none

using namespace nvinfer1;

static int failures = 0;
#define EXPECT(condition)                                                                 \
    do {                                                                                  \
        if (!(condition)) std::printf("line %d: %s\n", __LINE__, #condition), ++failures; \
    } while (false)

struct Logger : ILogger {
    std::string errors;
    void log(Severity severity, const char* message) noexcept override {
        if (severity <= Severity::kERROR) errors += std::string(message) + "\n";
    }
};

struct Finder : ILoggerFinder {
    Logger logger;
    ILogger* findLogger() noexcept override { return &logger; }
};

template <typename Function>
static Function* find(void* library, const char* name) {
    void* found = library ? dlsym(library, name) : nullptr;
    if (!found) std::printf("no %s: %s\n", name, dlerror()), std::exit(1);
    return reinterpret_cast<Function*>(found);
}

// The registry's methods in the order of 8.6.0's virtual table; 8.6.1 put the ones that 8.5 had before the new ones.
struct Registry860 {
    virtual void register_creator() = 0;
    virtual void list() = 0;
    virtual void get() = 0;
    virtual bool is_parent_search_enabled() const = 0;
    virtual void set_parent_search_enabled(bool) = 0;
    virtual void* load_library(const char* path) noexcept = 0;
};

static void* load_library(IPluginRegistry* registry, int32_t version, const char* path) {
    if (version == 8600) return reinterpret_cast<Registry860*>(registry)->load_library(path);
#if NV_TENSORRT_MINOR >= 6
    return registry->loadLibrary(path);
#else
    return nullptr;
#endif
}

static auto* create(IPluginCreator* creator, int32_t size) {
    const float threshold = 0.3f;  // which RoiResize does not read
    const PluginField fields[] = {{"size", &size, PluginFieldType::kINT32, 1},
                                  {"threshold", &threshold, PluginFieldType::kFLOAT32, 1}};
    const PluginFieldCollection collection = {2, fields};
    return creator->createPlugin("node", &collection);
}

static void check(IPluginRegistry* registry, Logger* logger, const char* name) {
    IPluginCreator* creator = registry->getPluginCreator(name, "1", "edge");
    EXPECT(creator != nullptr);
    if (!creator) return;
    EXPECT(!std::strcmp(creator->getPluginName(), name) && !std::strcmp(creator->getPluginNamespace(), "edge"));
    EXPECT(registry->getPluginCreator(name, "1", "") == nullptr);

    auto* plugin = create(creator, 448);
    EXPECT(plugin && !std::strcmp(plugin->getPluginType(), name) && !std::strcmp(plugin->getPluginNamespace(), "edge"));
    std::vector<char> bytes(plugin->getSerializationSize());
    plugin->serialize(bytes.data());
    auto* back = creator->deserializePlugin("node", bytes.data(), bytes.size());
    EXPECT(back && back->getSerializationSize() == bytes.size());
    std::vector<char> again(bytes.size());
    back->serialize(again.data());
    EXPECT(again == bytes);
    plugin->destroy();
    back->destroy();

    EXPECT(create(creator, -3) == nullptr);
    if (logger) EXPECT(logger->errors.find(std::string(name) + ".size must be in range, got -3") != std::string::npos);
}

int main(int, char** arguments) {
    const bool load = !std::strcmp(arguments[1], "load");
    void* tensorrt = dlopen(arguments[2], RTLD_NOW | RTLD_LOCAL);
    if (!tensorrt) return std::printf("%s\n", dlerror()), 1;
    const int32_t version = find<int32_t()>(tensorrt, "getInferLibVersion")();
    std::printf("TensorRT %d\n", version);
    IPluginRegistry* registry = find<IPluginRegistry*()>(tensorrt, "getPluginRegistry")();
    EXPECT(registry->getPluginCreator("RoiResize", "1", "edge") == nullptr);
    if (load) EXPECT(load_library(registry, version, arguments[3]) != nullptr);
    void* plugins = dlopen(arguments[3], RTLD_NOW | RTLD_LOCAL);
    if (!plugins) return std::printf("%s\n", dlerror()), 1;
    if (!load) {
        auto* enter = find<bool(IPluginRegistry*)>(plugins, "edge_register_plugins");
        EXPECT(enter(registry));
        EXPECT(enter(registry));  // a second call finds them there
    }
    check(registry, nullptr, "RegionBoxes");
    check(registry, nullptr, "RoiResize");

    // Without a GPU TensorRT makes no runtime or builder and so has no logger: ours in its place.
    Finder finder;
    find<void(ILoggerFinder*)>(plugins, "setLoggerFinder")(&finder);
    check(registry, &finder.logger, "RegionBoxes");
    check(registry, &finder.logger, "RoiResize");
    std::printf("%s: %d failures\n", arguments[1], failures);
    std::fflush(stdout);
    std::_Exit(failures);  // the order of destructors across dlopened libraries is TensorRT's affair
}
