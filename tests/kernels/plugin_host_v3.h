// plugin_host.cpp's view of IPluginV3, TensorRT 10 and later.
#pragma once

extern "C" nvinfer1::IPluginCreatorInterface* const* getCreators(int32_t& count);

constexpr DataType kNotAnOwner = DataType::kINT64;

struct Node {
    IPluginV3* plugin;
    IPluginV3OneCore* core;
    IPluginV3OneBuild* build;
    IPluginV3OneRuntime* runtime;

    explicit Node(IPluginV3* made) : plugin(made) {
        core = static_cast<IPluginV3OneCore*>(made->getCapabilityInterface(PluginCapabilityType::kCORE));
        build = static_cast<IPluginV3OneBuild*>(made->getCapabilityInterface(PluginCapabilityType::kBUILD));
        runtime = static_cast<IPluginV3OneRuntime*>(made->getCapabilityInterface(PluginCapabilityType::kRUNTIME));
    }
    const char* name() const { return core->getPluginName(); }
    int outputs() const { return build->getNbOutputs(); }
    bool output_shape(const DimsExprs* in, int count, DimsExprs& out, IExprBuilder& numbers) const {
        return build->getOutputShapes(in, count, nullptr, 0, &out, 1, numbers) == 0;
    }
    DataType output_type(const DataType* in, int count) const {
        DataType out = DataType::kBOOL;
        EXPECT(build->getOutputDataTypes(&out, 1, in, count) == 0);
        return out;
    }
    bool configure(const DynamicPluginTensorDesc* in, int count) const {
        finder.logger.last.clear();
        const bool fits = build->configurePlugin(in, count, nullptr, 1) == 0;
        EXPECT(fits == finder.logger.last.empty());
        return fits;
    }
    bool supports(int position, const DynamicPluginTensorDesc* tensors, int inputs) const {
        return build->supportsFormatCombination(position, tensors, inputs, 1);
    }
    int enqueue(const PluginTensorDesc* in, const PluginTensorDesc* out, const void* const* inputs,
                void* const* outputs, cudaStream_t stream) const {
        const Node attached(runtime->attachToContext(nullptr));
        EXPECT(attached.runtime->onShapeChange(in, 1, out, 1) == 0);
        return attached.runtime->enqueue(in, out, inputs, outputs, nullptr, stream);
    }
    Node clone() const { return Node(plugin->clone()); }
};

struct Creator {
    IPluginCreatorV3One* creator;

    const char* name() const { return creator->getPluginName(); }
    const char* version() const { return creator->getPluginVersion(); }
    const char* name_space() const { return creator->getPluginNamespace(); }
    const PluginFieldCollection* names() const { return creator->getFieldNames(); }
    IPluginV3* make(const PluginFieldCollection* fields) const {
        return creator->createPlugin("node", fields, TensorRTPhase::kBUILD);
    }
    // A serialised engine keeps the fields only: the plugin made from them must be the same one.
    Node restored(const Node& node) const {
        return Node(creator->createPlugin("node", node.runtime->getFieldsToSerialize(), TensorRTPhase::kRUNTIME));
    }
};

static std::array<Creator, 2> creators() {
    int32_t count = 0;
    IPluginCreatorInterface* const* made = getCreators(count);
    EXPECT(count == 2);
    return {Creator{static_cast<IPluginCreatorV3One*>(made[0])}, Creator{static_cast<IPluginCreatorV3One*>(made[1])}};
}

// What only this interface has: fields, wrong types refused, the timing cache's identity.
static void check_interface(const Creator& boxes, const Creator& resize, const Node& find, const Node& crop) {
    EXPECT(!std::strcmp(find.build->getTimingCacheID(), "size=448;threshold=0.300000012;"));
    EXPECT(!std::strcmp(boxes.restored(find).build->getTimingCacheID(), find.build->getTimingCacheID()));
    EXPECT(!std::strcmp(crop.clone().build->getTimingCacheID(), "size=256;"));
    const PluginFieldCollection* fields = resize.restored(crop).runtime->getFieldsToSerialize();
    EXPECT(fields->nbFields == 1 && *static_cast<const int32_t*>(fields->fields[0].data) == 256);
    EXPECT(*static_cast<const float*>(find.runtime->getFieldsToSerialize()->fields[1].data) == 0.3f);

    const DataType full = DataType::kFLOAT, half = DataType::kHALF;
    const DataType half_boxes[] = {half, half}, float_owner[] = {half, full, full};
    DataType type;
    EXPECT(find.build->getOutputDataTypes(&type, 1, &half, 1) != 0);
    EXPECT(crop.build->getOutputDataTypes(&type, 1, half_boxes, 2) != 0);
    EXPECT(crop.build->getOutputDataTypes(&type, 1, float_owner, 3) != 0);
}
