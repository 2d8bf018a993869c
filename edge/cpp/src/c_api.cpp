#include <algorithm>
#include <cstring>
#include <limits>
#include <new>

#include "edge/engine.h"
#include "edge/engine.hpp"

struct edge_engine {
    edge::Engine engine;
};

namespace {

thread_local char last_error[1024] = "";

// Runs the work; any exception becomes 1 and the thread's last error.
template <typename Work>
int guarded(Work work) noexcept {
    try {
        work();
        return 0;
    } catch (const std::bad_alloc&) {
        std::strncpy(last_error, "[memory] Out of memory. Close other programs, or use smaller images.",
                     sizeof last_error - 1);
    } catch (const std::exception& error) {
        std::strncpy(last_error, error.what(), sizeof last_error - 1);
    } catch (...) {
        std::strncpy(last_error, "[engine] An unknown failure. Report it.", sizeof last_error - 1);
    }
    return 1;
}

void require(bool given, const char* what) {
    if (!given) throw edge::Error("call", "A pointer is NULL", std::string("Pass ") + what);
}

// A prediction with the C arrays that point into it.
struct Held : edge_engine_prediction {
    edge::Prediction found;
    std::vector<edge_engine_label> c_labels;
    std::vector<edge_engine_region> c_regions;

    explicit Held(edge::Prediction&& made) : edge_engine_prediction{}, found(std::move(made)) {
        for (const edge::Label& each : found.labels) c_labels.push_back({each.name.c_str(), each.score});
        for (const edge::Region& each : found.regions)
            c_regions.push_back({{each.box[0], each.box[1], each.box[2], each.box[3]}, each.label.c_str(), each.score});
        score_count = found.scores.size(), scores = found.scores.data();
        label_count = c_labels.size(), labels = c_labels.data();
        region_count = c_regions.size(), regions = c_regions.data();
    }
};

std::optional<float> own_below_zero(float threshold) {
    return threshold < 0 ? std::nullopt : std::optional<float>(threshold);
}

edge::Spend spend_of(double effort, double budget_ms) {
    edge::Spend spend;
    if (!(effort < 0)) spend.effort = effort;
    if (!(budget_ms < 0)) spend.budget_ms = budget_ms;
    return spend;
}

edge::View view(const uint8_t* pixels, int width, int height, size_t stride) { return {pixels, width, height, stride}; }

template <typename T>
void give(const std::vector<T>& from, T* to) {
    if (to) std::copy(from.begin(), from.end(), to);
}

// images: of the type that the engine takes.
template <typename T>
int infer(const edge_engine* engine, const T* images, size_t batch, const edge::Spend& spend,
          const edge_engine_outputs* outputs, uint8_t* regions_looked) {
    return guarded([&] {
        require(engine && images && outputs, "engine, images and outputs");
        thread_local edge::LookedOutputs made;
        engine->engine.infer(images, batch, spend, made);
        give(made.scores, outputs->scores);
        give(made.global_scores, outputs->global_scores);
        give(made.local_scores, outputs->local_scores);
        give(made.regions, outputs->regions);
        give(made.region_classes, outputs->region_classes);
        give(made.regions_looked, regions_looked);
    });
}

}  // namespace

extern "C" {

int edge_engine_load(const char* bundle, edge_engine** engine) {
    return guarded([&] {
        require(bundle && engine, "bundle and engine");
        *engine = nullptr;
        *engine = new edge_engine{edge::Engine::load(bundle)};
    });
}

int edge_engine_load_with_effort(const char* bundle, double effort, edge_engine** engine) {
    return guarded([&] {
        require(bundle && engine, "bundle and engine");
        *engine = nullptr;
        *engine = new edge_engine{edge::Engine::load(bundle, effort)};
    });
}

double edge_engine_effort(const edge_engine* engine) {
    return engine ? engine->engine.effort() : std::numeric_limits<double>::quiet_NaN();
}

void edge_engine_free(edge_engine* engine) {
    guarded([&] { delete engine; });
}

const char* edge_engine_error(void) { return last_error; }

size_t edge_engine_classes(const edge_engine* engine) { return engine ? engine->engine.labels().size() : 0; }
const char* edge_engine_class_name(const edge_engine* engine, size_t index) {
    return index < edge_engine_classes(engine) ? engine->engine.labels()[index].c_str() : nullptr;
}
size_t edge_engine_regions(const edge_engine* engine) { return engine ? engine->engine.regions() : 0; }
size_t edge_engine_size(const edge_engine* engine) {
    return engine ? static_cast<size_t>(engine->engine.image().size) : 0;
}
size_t edge_engine_max_batch(const edge_engine* engine) { return engine ? engine->engine.max_batch() : 0; }

int edge_engine_infer(const edge_engine* engine, const float* images, size_t batch,
                      const edge_engine_outputs* outputs) {
    return edge_engine_infer_within(engine, images, batch, -1, -1, outputs, nullptr);
}

int edge_engine_infer_within(const edge_engine* engine, const float* images, size_t batch, double effort,
                             double budget_ms, const edge_engine_outputs* outputs, uint8_t* regions_looked) {
    return infer(engine, images, batch, spend_of(effort, budget_ms), outputs, regions_looked);
}

int edge_engine_takes_uint8(const edge_engine* engine) { return engine && engine->engine.image().uint8; }

int edge_engine_infer_uint8(const edge_engine* engine, const uint8_t* images, size_t batch, double effort,
                            double budget_ms, const edge_engine_outputs* outputs, uint8_t* regions_looked) {
    return infer(engine, images, batch, spend_of(effort, budget_ms), outputs, regions_looked);
}

int edge_engine_preprocess_uint8(const edge_engine* engine, const uint8_t* pixels, int width, int height, size_t stride,
                                 uint8_t* output) {
    return guarded([&] {
        require(engine && pixels && output, "engine, pixels and output");
        engine->engine.preprocess(view(pixels, width, height, stride), output);
    });
}

int edge_engine_approximate_pixels(edge_engine* engine, int on) {
    return guarded([&] {
        require(engine, "engine");
        engine->engine.approximate_pixels(on != 0);
    });
}

int edge_engine_preprocess(const edge_engine* engine, const uint8_t* pixels, int width, int height, size_t stride,
                           float* output) {
    return guarded([&] {
        require(engine && pixels && output, "engine, pixels and output");
        engine->engine.preprocess(view(pixels, width, height, stride), output);
    });
}

int edge_engine_predict_file(const edge_engine* engine, const char* file, float score_threshold,
                             edge_engine_prediction** prediction) {
    return edge_engine_predict_file_within(engine, file, score_threshold, -1, -1, prediction);
}

int edge_engine_predict_file_within(const edge_engine* engine, const char* file, float score_threshold, double effort,
                                    double budget_ms, edge_engine_prediction** prediction) {
    return guarded([&] {
        require(engine && file && prediction, "engine, file and prediction");
        *prediction = nullptr;
        const std::vector<std::filesystem::path> files{file};
        const edge::Spend spend = spend_of(effort, budget_ms);
        *prediction =
            new Held(std::move(engine->engine.predict_files(files, own_below_zero(score_threshold), spend).front()));
    });
}

int edge_engine_predict_pixels(const edge_engine* engine, const uint8_t* pixels, int width, int height, size_t stride,
                               float score_threshold, edge_engine_prediction** prediction) {
    return edge_engine_predict_pixels_within(engine, pixels, width, height, stride, score_threshold, -1, -1,
                                             prediction);
}

int edge_engine_predict_pixels_within(const edge_engine* engine, const uint8_t* pixels, int width, int height,
                                      size_t stride, float score_threshold, double effort, double budget_ms,
                                      edge_engine_prediction** prediction) {
    return guarded([&] {
        require(engine && pixels && prediction, "engine, pixels and prediction");
        *prediction = nullptr;
        const std::vector<edge::View> photos{view(pixels, width, height, stride)};
        const edge::Spend spend = spend_of(effort, budget_ms);
        *prediction =
            new Held(std::move(engine->engine.predict(photos, own_below_zero(score_threshold), spend).front()));
    });
}

int edge_engine_region_looked(const edge_engine_prediction* prediction, size_t region) {
    if (!prediction || region >= prediction->region_count) return 0;
    return static_cast<const Held*>(prediction)->found.regions[region].looked;
}

void edge_engine_prediction_free(edge_engine_prediction* prediction) { delete static_cast<Held*>(prediction); }

}  // extern "C"
