// The two functions by which TensorRT finds what is in this library (registry.load_library, trtexec --dynamicPlugins).
// Neither needs libnvinfer at link time.

#include "plugin/region_boxes_plugin.h"
#include "plugin/roi_resize_plugin.h"

extern "C" {

__attribute__((visibility("default"))) nvinfer1::IPluginCreatorInterface* const* getCreators(int32_t& count) {
    static edge::Creator<edge::RegionBoxesPlugin> region_boxes;
    static edge::Creator<edge::RoiResizePlugin> roi_resize;
    static nvinfer1::IPluginCreatorInterface* const creators[] = {&region_boxes, &roi_resize};
    count = 2;
    return creators;
}

__attribute__((visibility("default"))) void setLoggerFinder(nvinfer1::ILoggerFinder* finder) {
    edge::logger_finder = finder;
}
}
