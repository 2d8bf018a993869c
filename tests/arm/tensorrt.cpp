// What libmcar_edge and mcar_edge_build take from libnvinfer and libnvonnxparser by name, with nothing behind it:
// NVIDIA's libraries for Arm come with JetPack alone.
extern "C" {

int getInferLibVersion() { return 0; }
void* getPluginRegistry() { return nullptr; }
void* createInferRuntime_INTERNAL(void*, int) { return nullptr; }
void* createInferBuilder_INTERNAL(void*, int) { return nullptr; }
void* createNvOnnxParser_INTERNAL(void*, void*, int) { return nullptr; }
}
