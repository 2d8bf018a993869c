/* The C API of the runtime, for C and for languages that call C. No function throws or aborts.
 *
 * Functions that return int give 0 when done and 1 when refused; edge_engine_error() then holds the reason, one line.
 * Pixels are RGB bytes, `stride` bytes from row to row. Threads may use one engine at once. */
#ifndef EDGE_ENGINE_H
#define EDGE_ENGINE_H

#include <stddef.h>
#include <stdint.h>

#if defined(__GNUC__)
#define EDGE_ENGINE_API __attribute__((visibility("default")))
#else
#define EDGE_ENGINE_API
#endif

#ifdef __cplusplus
extern "C" {
#endif

typedef struct edge_engine edge_engine;

typedef struct {
    const char* name;
    float score;
} edge_engine_label;

/* x1 y1 x2 y2 in photo pixels, x2/y2 exclusive. */
typedef struct {
    float box[4];
    const char* label;
    float score;
} edge_engine_region;

/* labels: best first; regions: in rank order; scores: one per class. Valid until edge_engine_prediction_free. */
typedef struct {
    size_t score_count;
    const float* scores;
    size_t label_count;
    const edge_engine_label* labels;
    size_t region_count;
    const edge_engine_region* regions;
} edge_engine_prediction;

/* Where infer writes, C classes and K regions: scores, global_scores, local_scores (B, C); regions (B, K, 4) in
 * model-input pixels; region_classes (B, K). What is NULL, or what the model lacks, is not written. */
typedef struct {
    float* scores;
    float* global_scores;
    float* local_scores;
    float* regions;
    int64_t* region_classes;
} edge_engine_outputs;

EDGE_ENGINE_API int edge_engine_load(const char* bundle, edge_engine** engine);
EDGE_ENGINE_API int edge_engine_load_with_effort(const char* bundle, double effort, edge_engine** engine);
EDGE_ENGINE_API double edge_engine_effort(const edge_engine* engine); /* of calls that name none; NaN of NULL */
EDGE_ENGINE_API void edge_engine_free(edge_engine* engine);           /* NULL is fine */

/* The reason of this thread's last refusal; empty before the first. Valid until its next one. */
EDGE_ENGINE_API const char* edge_engine_error(void);

EDGE_ENGINE_API size_t edge_engine_classes(const edge_engine* engine);
EDGE_ENGINE_API const char* edge_engine_class_name(const edge_engine* engine, size_t index); /* NULL beyond the last */
EDGE_ENGINE_API size_t edge_engine_regions(const edge_engine* engine);                       /* K */
EDGE_ENGINE_API size_t edge_engine_size(const edge_engine* engine);                          /* side of the input */
EDGE_ENGINE_API size_t edge_engine_max_batch(const edge_engine* engine);

/* images: (batch, 3, size, size) float, normalised, contiguous. */
EDGE_ENGINE_API int edge_engine_infer(const edge_engine* engine, const float* images, size_t batch,
                                      const edge_engine_outputs* outputs);

/* The same with what the call may spend on the second stage. effort: 0 (it looks at nothing) to 1 (at every region);
 * below 0 leaves the engine's own. budget_ms: above 0, milliseconds from the call on; below 0 sets none.
 * regions_looked: (batch, K), 1 where the second stage looked at a region; NULL, or for an engine of one stage, it is
 * not written. */
EDGE_ENGINE_API int edge_engine_infer_within(const edge_engine* engine, const float* images, size_t batch,
                                             double effort, double budget_ms, const edge_engine_outputs* outputs,
                                             uint8_t* regions_looked);

/* An engine built for bytes takes (batch, size, size, 3) RGB, contiguous, and refuses floats; the others refuse bytes.
 */
EDGE_ENGINE_API int edge_engine_takes_uint8(const edge_engine* engine); /* 1 or 0 */
EDGE_ENGINE_API int edge_engine_infer_uint8(const edge_engine* engine, const uint8_t* images, size_t batch,
                                            double effort, double budget_ms, const edge_engine_outputs* outputs,
                                            uint8_t* regions_looked);
/* output: (size, size, 3), resized for that. */
EDGE_ENGINE_API int edge_engine_preprocess_uint8(const edge_engine* engine, const uint8_t* pixels, int width,
                                                 int height, size_t stride, uint8_t* output);

/* on: 1 lets predict and preprocess decode and resize large photographs sooner, to other pixels than those of training
 * (docs/embedding.md); 0, as at first, does not. Set it before other threads use the engine. */
EDGE_ENGINE_API int edge_engine_approximate_pixels(edge_engine* engine, int on);

/* output: (3, size, size) float, resized and normalised for infer. */
EDGE_ENGINE_API int edge_engine_preprocess(const edge_engine* engine, const uint8_t* pixels, int width, int height,
                                           size_t stride, float* output);

/* score_threshold below 0 leaves the bundle's own. */
EDGE_ENGINE_API int edge_engine_predict_file(const edge_engine* engine, const char* file, float score_threshold,
                                             edge_engine_prediction** prediction);
EDGE_ENGINE_API int edge_engine_predict_pixels(const edge_engine* engine, const uint8_t* pixels, int width, int height,
                                               size_t stride, float score_threshold,
                                               edge_engine_prediction** prediction);
EDGE_ENGINE_API int edge_engine_predict_file_within(const edge_engine* engine, const char* file, float score_threshold,
                                                    double effort, double budget_ms,
                                                    edge_engine_prediction** prediction);
EDGE_ENGINE_API int edge_engine_predict_pixels_within(const edge_engine* engine, const uint8_t* pixels, int width,
                                                      int height, size_t stride, float score_threshold, double effort,
                                                      double budget_ms, edge_engine_prediction** prediction);
/* 1 where the second stage looked at that region of a prediction, else 0. */
EDGE_ENGINE_API int edge_engine_region_looked(const edge_engine_prediction* prediction, size_t region);
EDGE_ENGINE_API void edge_engine_prediction_free(edge_engine_prediction* prediction); /* NULL is fine */

#ifdef __cplusplus
}
#endif
#endif
