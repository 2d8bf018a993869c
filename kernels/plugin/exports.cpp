// The functions by which TensorRT finds what is in this library: IPluginRegistry::loadLibrary, trtexec --dynamicPlugins
// and, for TensorRT 8.5 which has neither, the application itself. None needs libnvinfer at link time.

#include "plugin/region_boxes_plugin.h"
#include "plugin/roi_resize_plugin.h"

#if NV_TENSORRT_MAJOR >= 10
#include "plugin/plugin_v3.h"
#else
#include <dlfcn.h>

#include "plugin/plugin_v2.h"
#endif

#define EDGE_EXPORT __attribute__((visibility("default")))

static edge::AnyCreator* const* creators_of_this_library(int32_t& count) {
    static edge::Creator<edge::RegionBoxes> region_boxes;
    static edge::Creator<edge::RoiResize> roi_resize;
    static edge::AnyCreator* const creators[] = {&region_boxes, &roi_resize};
    count = 2;
    return creators;
}

extern "C" {

EDGE_EXPORT void setLoggerFinder(nvinfer1::ILoggerFinder* finder) { edge::logger_finder = finder; }

#if NV_TENSORRT_MAJOR >= 10

EDGE_EXPORT edge::AnyCreator* const* getCreators(int32_t& count) { return creators_of_this_library(count); }

#else

EDGE_EXPORT edge::AnyCreator* const* getPluginCreators(int32_t& count) { return creators_of_this_library(count); }

// To be called once after dlopen where there is no loadLibrary. True if the registry holds both creators after it, or
// held them before.
EDGE_EXPORT bool edge_register_plugins(nvinfer1::IPluginRegistry* registry) {
    // The logger of the TensorRT that this process has loaded already.
    static struct final : nvinfer1::ILoggerFinder {
        nvinfer1::ILogger* findLogger() override {
            void* tensorrt = dlopen("libnvinfer.so.8", RTLD_LAZY | RTLD_NOLOAD);
            void* found = tensorrt ? dlsym(tensorrt, "getLogger") : nullptr;
            return found ? reinterpret_cast<nvinfer1::ILogger* (*)()>(found)() : nullptr;
        }
    } loaded;
    if (edge::logger_finder == nullptr) edge::logger_finder = &loaded;
    int32_t count = 0;
    edge::AnyCreator* const* creators = creators_of_this_library(count);
    bool held = true;
    for (int i = 0; i < count; ++i) {
        const bool known = registry->getPluginCreator(creators[i]->getPluginName(), edge::kVersion, edge::kNamespace);
        held = (known || registry->registerCreator(*creators[i], edge::kNamespace)) && held;
    }
    return held;
}

#endif
}
