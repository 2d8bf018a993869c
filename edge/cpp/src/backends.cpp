// The table of backends. One file or folder for each; which of them can run is chosen when the library is configured.
#include "runner.h"
#include "tensorrt_plan.h"
#include "values.h"

namespace edge {

#ifdef MCAR_EDGE_OPENVINO
Runners open_openvino(const Bundle& bundle, const Contents& contents);
#else
constexpr decltype(Backend::open) open_openvino = nullptr;
#endif
#ifdef MCAR_EDGE_TENSORRT
Runners open_tensorrt(const Bundle& bundle, const Contents& contents);
#else
constexpr decltype(Backend::open) open_tensorrt = nullptr;
#endif

const std::map<std::string, Backend>& backends() {
    static const std::map<std::string, Backend> table{
        {"openvino", {[](const json& engine) { return std::vector{text(engine, "payload")}; }, open_openvino}},
        {"tensorrt", {[](const json& engine) { return files_of(plans_of(engine)); }, open_tensorrt}},
    };
    return table;
}

}  // namespace edge
