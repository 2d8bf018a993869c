// What Engine::infer costs over OpenVINO's own calls, one of each stage, at batch 1, from pixels in memory to outputs
// copied:
//   mcar_edge_overhead BUNDLE [ROUNDS=15] [CALLS=40] [PRECISION=f32]
// PRECISION is OpenVINO's hint: dynamic for a bundle of the 16-bit float, else f32.
// Interleaved: every round times CALLS of each; the ratio is the median over rounds. Both have been called 20 times
// before.
#include <algorithm>
#include <chrono>
#include <cstdio>
#include <cstdlib>
#include <edge/engine.hpp>
#include <openvino/runtime/core.hpp>

namespace {

template <typename Call>
double milliseconds(int calls, Call call) {
    std::vector<double> taken;
    for (int i = 0; i < calls; ++i) {
        const auto start = std::chrono::steady_clock::now();
        call();
        taken.push_back(std::chrono::duration<double, std::milli>(std::chrono::steady_clock::now() - start).count());
    }
    std::nth_element(taken.begin(), taken.begin() + calls / 2, taken.end());
    return taken[static_cast<std::size_t>(calls / 2)];
}

double median(std::vector<double> values) {
    std::sort(values.begin(), values.end());
    return values[values.size() / 2];
}

// The part of a model whose inputs and outputs have names that begin so.
std::shared_ptr<ov::Model> part(const ov::Model& whole, const std::string& prefix) {
    const auto of_it = [&](const auto& each) { return each->output(0).get_any_name().rfind(prefix, 0) == 0; };
    ov::ParameterVector parameters;
    ov::ResultVector results;
    for (const auto& each : whole.get_parameters())
        if (of_it(each)) parameters.push_back(each);
    for (const auto& each : whole.get_results())
        if (of_it(each)) results.push_back(each);
    return std::make_shared<ov::Model>(results, parameters, prefix);
}

}  // namespace

int main(int count, char** words) {
    if (count < 2) return std::fprintf(stderr, "usage: mcar_edge_overhead BUNDLE [ROUNDS] [CALLS] [f32|dynamic]\n"), 2;
    const int rounds = count > 2 ? std::atoi(words[2]) : 15, calls = count > 3 ? std::atoi(words[3]) : 40;
    const char* precision = count > 4 ? words[4] : "f32";
    const edge::Engine engine = edge::Engine::load(words[1]);
    const auto side = static_cast<std::size_t>(engine.image().size);
    std::vector<float> images(3 * side * side);
    for (std::size_t i = 0; i < images.size(); ++i)
        images[i] = static_cast<float>(i * 2654435761u % 1000) / 500.0f - 1.0f;

    ov::Core core;
    const ov::AnyMap properties{
        {"PERFORMANCE_HINT", "LATENCY"}, {"INFERENCE_PRECISION_HINT", precision}, {"NUM_STREAMS", "1"}};
    const auto model = core.read_model(std::string(words[1]) + "/engine.xml");
    const bool staged = model->inputs().size() > 1;
    const auto first = staged ? part(*model, "look/") : model;
    first->reshape(ov::PartialShape(ov::Shape{1, 3, side, side}));
    ov::InferRequest request = core.compile_model(first, "CPU", properties).create_infer_request(), closer;
    const ov::Tensor image(ov::element::f32, {1, 3, side, side}, images.data());
    request.set_input_tensor(image);
    std::vector<std::int32_t> owner(engine.regions());
    if (staged) {
        const auto second = part(*model, "closer/");
        const auto k = static_cast<std::int64_t>(owner.size()), s = static_cast<std::int64_t>(side);
        second->reshape(std::map<std::string, ov::PartialShape>{
            {"closer/image", {-1, 3, s, s}}, {"closer/boxes", {k, 4}}, {"closer/owner", {k}}});
        closer = core.compile_model(second, "CPU", properties).create_infer_request();
        closer.set_tensor("closer/image", image);
        closer.set_tensor("closer/owner", ov::Tensor(ov::element::i32, {owner.size()}, owner.data()));
    }

    edge::Outputs outputs;
    const auto bare = [&] {
        request.infer();
        if (!staged) return;
        const ov::Tensor regions = request.get_tensor("look/regions");
        closer.set_tensor("closer/boxes", ov::Tensor(ov::element::f32, {owner.size(), 4}, regions.data()));
        closer.infer();
    };
    const auto ours = [&] { engine.infer(images.data(), 1, outputs); };
    milliseconds(20, bare), milliseconds(20, ours);
    std::vector<double> bare_ms, ours_ms, ratios;
    for (int round = 0; round < rounds; ++round) {
        // Who goes first alternates: what follows a pause runs at another clock.
        if (round % 2)
            bare_ms.push_back(milliseconds(calls, bare)), ours_ms.push_back(milliseconds(calls, ours));
        else
            ours_ms.push_back(milliseconds(calls, ours)), bare_ms.push_back(milliseconds(calls, bare));
        ratios.push_back(ours_ms.back() / bare_ms.back());
    }
    std::printf("{\"bare_ms\": %.4f, \"ours_ms\": %.4f, \"overhead_percent\": %.3f}\n", median(bare_ms),
                median(ours_ms), 100 * (median(ratios) - 1));
}
