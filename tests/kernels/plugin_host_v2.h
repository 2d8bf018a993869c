// plugin_host.cpp's view of IPluginV2DynamicExt, TensorRT 8.5 and 8.6.
#pragma once

extern "C" nvinfer1::IPluginCreator* const* getPluginCreators(int32_t& count);

constexpr DataType kNotAnOwner = DataType::kBOOL;  // 8.x has no int64

struct Node {
    IPluginV2DynamicExt* plugin;

    explicit Node(IPluginV2DynamicExt* made) : plugin(made) { EXPECT(plugin->initialize() == 0); }
    const char* name() const { return plugin->getPluginType(); }
    int outputs() const { return plugin->getNbOutputs(); }
    bool output_shape(const DimsExprs* in, int count, DimsExprs& out, IExprBuilder& numbers) const {
        out = plugin->getOutputDimensions(0, in, count, numbers);
        return out.nbDims >= 0;
    }
    DataType output_type(const DataType* in, int count) const { return plugin->getOutputDataType(0, in, count); }
    // The interface cannot refuse: it is the log that says so.
    bool configure(const DynamicPluginTensorDesc* in, int count) const {
        finder.logger.last.clear();
        plugin->configurePlugin(in, count, nullptr, 1);
        return finder.logger.last.empty();
    }
    bool supports(int position, const DynamicPluginTensorDesc* tensors, int inputs) const {
        PluginTensorDesc plain[4];
        for (int i = 0; i <= inputs; ++i) plain[i] = tensors[i].desc;
        return plugin->supportsFormatCombination(position, plain, inputs, 1);
    }
    int enqueue(const PluginTensorDesc* in, const PluginTensorDesc* out, const void* const* inputs,
                void* const* outputs, cudaStream_t stream) const {
        EXPECT(plugin->getWorkspaceSize(in, 1, out, 1) == 0);
        return plugin->enqueue(in, out, inputs, outputs, nullptr, stream);
    }
    Node clone() const { return Node(plugin->clone()); }
    std::string serialised() const {
        std::string bytes(plugin->getSerializationSize(), '\xff');
        plugin->serialize(&bytes[0]);
        return bytes;
    }
};

struct Creator {
    IPluginCreator* creator;

    const char* name() const { return creator->getPluginName(); }
    const char* version() const { return creator->getPluginVersion(); }
    const char* name_space() const { return creator->getPluginNamespace(); }
    const PluginFieldCollection* names() const { return creator->getFieldNames(); }
    IPluginV2DynamicExt* make(const PluginFieldCollection* fields) const {
        return static_cast<IPluginV2DynamicExt*>(creator->createPlugin("node", fields));
    }
    IPluginV2DynamicExt* read(const std::string& bytes) const {
        return static_cast<IPluginV2DynamicExt*>(creator->deserializePlugin("node", bytes.data(), bytes.size()));
    }
    Node restored(const Node& node) const { return Node(read(node.serialised())); }
};

static std::array<Creator, 2> creators() {
    int32_t count = 0;
    IPluginCreator* const* made = getPluginCreators(count);
    EXPECT(count == 2);
    return {Creator{made[0]}, Creator{made[1]}};
}

// What only this interface has: bytes, a namespace that can be set, an end of life.
static void check_interface(const Creator& boxes, const Creator& resize, const Node& find, const Node& crop) {
    const std::string bytes = find.serialised();
    int32_t size = 0;
    float threshold = 0;
    EXPECT(bytes.size() == 8);
    std::memcpy(&size, bytes.data(), 4);
    std::memcpy(&threshold, bytes.data() + 4, 4);
    EXPECT(size == 448 && threshold == 0.3f);
    EXPECT(boxes.restored(find).serialised() == bytes && find.clone().serialised() == bytes);
    const std::string crop_bytes = crop.serialised();
    EXPECT(crop_bytes.size() == 4 && resize.restored(crop).serialised() == crop_bytes);
    EXPECT(boxes.read(find.serialised() + "x") == nullptr && boxes.read("") == nullptr);
    for (const char* part : {"RegionBoxes", "8 bytes", "got 0", "Expected", "Do build"}) {
        EXPECT(finder.logger.last.find(part) != std::string::npos);
    }
    EXPECT(resize.read(std::string(4, '\xff')) == nullptr);  // size -1
    EXPECT(finder.logger.last.find("RoiResize.size must") != std::string::npos);
    EXPECT(boxes.read(bytes.substr(0, 4) + std::string(4, '\0')) == nullptr);  // threshold 0
    EXPECT(finder.logger.last.find("RegionBoxes.threshold must") != std::string::npos);

    EXPECT(!std::strcmp(find.plugin->getPluginVersion(), "1"));
    for (const char* given : {"edge", ""}) {  // an engine looks its creators up under this name
        find.plugin->setPluginNamespace(given);
        boxes.creator->setPluginNamespace(given);
        EXPECT(!std::strcmp(find.plugin->getPluginNamespace(), "edge"));
        EXPECT(!std::strcmp(boxes.name_space(), "edge"));
    }
    IPluginV2DynamicExt* copy = find.plugin->clone();
    copy->terminate();
    copy->destroy();
    EXPECT(find.serialised().size() == 8);
}
