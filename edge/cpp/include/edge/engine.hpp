// An engine bundle in a C++17 application: load, infer, predict. No header of a vendor or of another library is needed.
//
//     edge::Engine engine = edge::Engine::load("engines/first");
//     for (const edge::Prediction& found : engine.predict_files({"photo.jpg"}))
//         for (const edge::Label& label : found.labels) std::cout << label.name << ' ' << label.score << '\n';
//
// Every failure is an edge::Error. What is allowed with threads and processes stands in docs/embedding.md.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <filesystem>
#include <memory>
#include <optional>
#include <stdexcept>
#include <string>
#include <vector>

#if defined(__GNUC__)
#define MCAR_EDGE_API __attribute__((visibility("default")))
#else
#define MCAR_EDGE_API
#endif

namespace edge {

// A failure the caller can act on, in one line: [stage] What happened. What to do.
class MCAR_EDGE_API Error : public std::runtime_error {
  public:
    Error(const std::string& stage, const std::string& problem, const std::string& fix);
};

// Pixels somebody else holds: height rows of width RGB bytes, `stride` bytes from row to row.
struct View {
    const std::uint8_t* pixels = nullptr;
    int width = 0, height = 0;
    std::size_t stride = 0;
};

// pixels: (height, width, 3) uint8 RGB.
struct Image {
    int width = 0, height = 0;
    std::vector<std::uint8_t> pixels;
    View view() const { return {pixels.data(), width, height, static_cast<std::size_t>(width) * 3}; }
};

// A JPEG or PNG as upright RGB, by the rules of the Python package: EXIF or else XMP orientation, CMYK, grey, palettes,
// 16 bits; what is transparent shows white. Refused: other formats, truncated files, more than 2^27 pixels, sides over
// 65535.
MCAR_EDGE_API Image decode(const std::filesystem::path& file);
MCAR_EDGE_API Image decode(const void* data, std::size_t bytes);

// Pillow's antialiased bilinear resize of 8-bit RGB, bit for bit.
MCAR_EDGE_API Image resize(const View& image, int width, int height);

// (B, 3, size, size) float32: the resized image / 255, less mean, by std, per channel (RGB). An engine with `uint8`
// takes the resized image itself, (B, size, size, 3) uint8.
struct ImageSpec {
    int size = 256;
    std::array<float, 3> mean{}, std{};
    bool uint8 = false;
};

struct Label {
    std::string name;
    float score = 0;
};

// box: x1 y1 x2 y2 in photo pixels, x2/y2 exclusive; score: the fused score of the label's class; looked: whether the
// second stage looked at it.
struct Region {
    std::array<float, 4> box{};
    std::string label;
    float score = 0;
    bool looked = true;
};

// scores: (C,) in [0, 1]; labels: those at or above their thresholds, best first; regions in rank order.
struct Prediction {
    std::vector<float> scores;
    std::vector<Label> labels;
    std::vector<Region> regions;
};

// scores, global_scores, local_scores: (B, C) in [0, 1]; regions: (B, K, 4), x1 y1 x2 y2 in model-input pixels, x2/y2
// exclusive; region_classes: (B, K). What a model lacks stays empty. Reused from call to call, nothing is allocated.
struct Outputs {
    std::vector<float> scores, global_scores, local_scores, regions;
    std::vector<std::int64_t> region_classes;
};

// regions_looked: (B, K), 1 where the second stage looked at a region; empty for an engine of one stage.
struct LookedOutputs : Outputs {
    std::vector<std::uint8_t> regions_looked;
};

// What a call may spend on the second stage. effort: 0 (it looks at nothing) to 1 (at every region); the engine's own
// where it is not given. budget_ms: above 0, from the call on: the first stage always runs, a chunk of the second
// starts only if its median time here still fits, the most rewarding regions first.
struct Spend {
    std::optional<double> effort, budget_ms;
};

// A loaded bundle. As many threads as you like may call infer and predict of one engine at once.
class MCAR_EDGE_API Engine {
  public:
    // Checks every digest and that the bundle fits this machine, then loads it.
    static Engine load(const std::filesystem::path& bundle);
    static Engine load(const std::filesystem::path& bundle, double effort);  // of calls that name none

    Engine(Engine&&) noexcept;
    Engine& operator=(Engine&&) noexcept;
    ~Engine();

    // images: (batch, 3, size, size) float32, normalised, contiguous; 1 <= batch <= max_batch().
    Outputs infer(const float* images, std::size_t batch) const;
    void infer(const float* images, std::size_t batch, Outputs& outputs) const;
    void infer(const float* images, std::size_t batch, const Spend& spend, LookedOutputs& outputs) const;

    // For an engine that takes bytes: (batch, size, size, 3) uint8 RGB, contiguous.
    Outputs infer(const std::uint8_t* images, std::size_t batch) const;
    void infer(const std::uint8_t* images, std::size_t batch, Outputs& outputs) const;
    void infer(const std::uint8_t* images, std::size_t batch, const Spend& spend, LookedOutputs& outputs) const;

    // However many photographs; score_threshold replaces the bundle's own thresholds (0.5 where it has none).
    std::vector<Prediction> predict(const std::vector<View>& photos, std::optional<float> score_threshold = {}) const;
    std::vector<Prediction> predict_files(const std::vector<std::filesystem::path>& files,
                                          std::optional<float> score_threshold = {}) const;
    // The budget is of the whole call, decoding included.
    std::vector<Prediction> predict(const std::vector<View>& photos, std::optional<float> score_threshold,
                                    const Spend& spend) const;
    std::vector<Prediction> predict_files(const std::vector<std::filesystem::path>& files,
                                          std::optional<float> score_threshold, const Spend& spend) const;

    // output: (3, size, size) float32, or (size, size, 3) uint8 for an engine that takes bytes.
    void preprocess(const View& photo, float* output) const;
    void preprocess(const View& photo, std::uint8_t* output) const;

    // Off at first. On: large photographs are decoded and resized sooner, to other pixels than those of training
    // (docs/embedding.md). Set it before other threads use the engine.
    void approximate_pixels(bool on);
    bool approximate_pixels() const;

    const ImageSpec& image() const;
    const std::vector<std::string>& labels() const;
    const std::string& model() const;
    const std::string& backend() const;
    double effort() const;        // of calls that name none
    std::size_t regions() const;  // K; 0 for a model without regions
    std::size_t max_batch() const;

    // Waits for calls under way, releases the engine; later calls are refused.
    void close();

  private:
    struct State;
    explicit Engine(std::unique_ptr<State> state);
    void require_input(bool uint8) const;
    std::vector<Prediction> predict_sized(const std::vector<View>& photos, const std::vector<View>& sizes,
                                          std::optional<float> score_threshold, const Spend& spend) const;
    static Engine open(const std::filesystem::path& bundle, std::optional<double> effort);
    std::unique_ptr<State> state_;
};

}  // namespace edge
