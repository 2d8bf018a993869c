// mcar_edge_watch: what a camera, a stream, a film or a folder that fills shows, frame by frame; as python -m
// edge.watch.
#include <algorithm>
#include <csignal>
#include <cstdio>
#include <fstream>
#include <numeric>
#include <opencv2/imgproc.hpp>
#include <opencv2/videoio.hpp>

#include "arguments.h"
#include "edge/engine.hpp"
#include "feed.h"
#include "files.h"
#include "rebundle.h"
#include "steady.h"

namespace edge::tools {
namespace {

namespace fs = std::filesystem;
using nlohmann::ordered_json;

constexpr std::chrono::milliseconds WAKE(100);  // how soon a stop is seen where no picture comes
constexpr long MOST = 1L << 40;
const cv::Scalar STRONG(61, 196, 255), WEAK(160, 160, 160);  // BGR: regions of a class that was found, others
volatile std::sig_atomic_t stop = 0;

double seconds_since(Clock::time_point begin) { return std::chrono::duration<double>(Clock::now() - begin).count(); }

double rounded(double value, double steps) { return std::round(value * steps) / steps; }

// A frame as its JSON object.
std::string line_of(const Arrival& arrival, double time_s, const Prediction& found, double latency_ms, long dropped) {
    ordered_json labels = ordered_json::array(), regions = ordered_json::array();
    long looks = 0;
    for (const Label& each : found.labels) labels.push_back({{"name", each.name}, {"score", each.score}});
    for (const Region& each : found.regions) {
        regions.push_back({{"box", each.box}, {"label", each.label}, {"score", each.score}, {"looked", each.looked}});
        looks += each.looked;
    }
    const ordered_json line{
        {"frame", arrival.number}, {"time_s", rounded(time_s, 1e6)},         {"labels", labels},  {"regions", regions},
        {"looks", looks},          {"latency_ms", rounded(latency_ms, 1e3)}, {"dropped", dropped}};
    return line.dump(-1, ' ', true, ordered_json::error_handler_t::replace) + "\n";
}

// Where JSON Lines go: each is written at once.
class Lines {
  public:
    explicit Lines(const std::optional<std::string>& name) {
        if (!name) return;
        if (*name == "-") {
            file_ = stdout;
            return;
        }
        std::error_code ignored;
        if (fs::path(*name).has_parent_path()) fs::create_directories(fs::path(*name).parent_path(), ignored);
        file_ = std::fopen(name->c_str(), "w");
        if (!file_) throw Error("write", "Cannot write " + *name + ": " + std::strerror(errno), "Choose another file");
    }
    ~Lines() {
        if (file_ && file_ != stdout) std::fclose(file_);
    }
    Lines(const Lines&) = delete;
    Lines& operator=(const Lines&) = delete;

    // False if nobody reads any more.
    bool write(const std::string& line) {
        if (!file_ || (std::fwrite(line.data(), 1, line.size(), file_) == line.size() && std::fflush(file_) == 0))
            return true;
        if (errno == EPIPE) return false;
        throw Error("write", std::string("Cannot write the results: ") + std::strerror(errno), "Make room for them");
    }

  private:
    std::FILE* file_ = nullptr;
};

// Frames with what was found in them; the film has its name when it is complete.
class Film {
  public:
    explicit Film(const fs::path& path) : path_(path), partial_(path) {
        partial_.replace_filename("." + path.stem().string() + ".partial" + path.extension().string());
    }
    ~Film() {
        writer_.release();
        std::error_code ignored;
        fs::remove(partial_, ignored);
    }
    Film(const Film&) = delete;
    Film& operator=(const Film&) = delete;

    void add(const Image& image, const Prediction& found) {
        cv::Mat frame;
        cv::cvtColor(cv::Mat(image.height, image.width, CV_8UC3, const_cast<std::uint8_t*>(image.pixels.data())), frame,
                     cv::COLOR_RGB2BGR);
        draw(frame, found);
        if (!writer_.isOpened()) {
            size_ = frame.size();
            if (!writer_.open(partial_.string(), cv::VideoWriter::fourcc('M', 'J', 'P', 'G'), 25, size_))
                throw Error("video", "Cannot write " + path_.string(), "Choose a writable path that ends in .avi");
        }
        if (frame.size() != size_) cv::resize(frame, frame, size_);
        writer_.write(frame);
    }

    void keep() {
        if (!writer_.isOpened()) return;
        writer_.release();
        fs::rename(partial_, path_);
    }

  private:
    static void draw(cv::Mat& frame, const Prediction& found) {
        const auto text = [&](const std::string& name, float score, const cv::Point& at, const cv::Scalar& colour) {
            cv::putText(frame, cv::format("%s %.2f", name.c_str(), score), at, cv::FONT_HERSHEY_SIMPLEX, 0.5, colour, 1,
                        cv::LINE_AA);
        };
        for (const Region& region : found.regions) {
            const bool strong = std::any_of(found.labels.begin(), found.labels.end(),
                                            [&](const Label& label) { return label.name == region.label; });
            const cv::Point from(cvRound(region.box[0]), cvRound(region.box[1]));
            const cv::Point to(cvRound(region.box[2]), cvRound(region.box[3]));
            cv::rectangle(frame, cv::Rect(from, to), strong ? STRONG : WEAK, strong ? 2 : 1);
            text(region.label, region.score, from + cv::Point(3, 14), strong ? STRONG : WEAK);
        }
        int row = 0;
        for (const Label& label : found.labels) text(label.name, label.score, {6, frame.rows - 8 - 16 * row++}, STRONG);
    }

    const fs::path path_;
    fs::path partial_;
    cv::VideoWriter writer_;
    cv::Size size_;
};

// A prediction with the labels that are on, best first.
void relabel(Prediction& found, const std::vector<bool>& on, const std::vector<std::string>& names) {
    std::vector<std::size_t> order(names.size());
    std::iota(order.begin(), order.end(), std::size_t{0});
    std::stable_sort(order.begin(), order.end(),
                     [&](std::size_t a, std::size_t b) { return found.scores[a] > found.scores[b]; });
    found.labels.clear();
    for (const std::size_t c : order)
        if (on[c]) found.labels.push_back({names[c], found.scores[c]});
}

// For the person at the terminal: a line whenever the labels change.
void tell(double time_s, const std::vector<Label>& labels, std::vector<std::string>& before) {
    std::vector<std::string> names;
    std::string text;
    for (const Label& each : labels) {
        char score[16];
        std::snprintf(score, sizeof score, " %.2f", each.score);
        text += (text.empty() ? "" : ", ") + each.name + score;
        names.push_back(each.name);
    }
    std::sort(names.begin(), names.end());
    names.push_back("");  // unlike what there is before the first frame
    if (names != before) std::printf("%9.2f s  %s\n", time_s, text.empty() ? "nothing" : text.c_str());
    std::fflush(stdout);
    before = std::move(names);
}

void watch(const Arguments& arguments) {
    const Spend spend{arguments.decimal("--effort", 0, 1), arguments.decimal("--budget-ms", 0, 1e12)};
    const auto threshold = arguments.decimal("--score-threshold", 0, 1);
    const auto most = arguments.number("--frames", 1, MOST);
    const auto duration_s = arguments.decimal("--duration", 0, 1e12);
    const auto lines_to = arguments.text("--json"), film_to = arguments.text("--draw");
    if (film_to) check_writable(*film_to);
    Lines lines(lines_to);
    std::optional<Film> film;
    if (film_to) film.emplace(*film_to);
    Engine engine = Engine::load(arguments[0]);
    engine.approximate_pixels(arguments.has("--approximate-pixels"));
    std::vector<float> thresholds =
        read_source(arguments[0]).bundle.thresholds_at(spend.effort.value_or(engine.effort()));
    if (threshold) std::fill(thresholds.begin(), thresholds.end(), static_cast<float>(*threshold));
    std::optional<SteadyLabels> steady;
    if (arguments.has("--steady")) steady.emplace(thresholds);

    Feed feed(open_source(arguments[1]), arguments.has("--all"));
    const auto begin = Clock::now();
    std::vector<std::string> names;
    std::vector<double> latencies;
    long given = 0, last = -1, lost = 0;
    while (!stop && (!most || given < *most) && (!duration_s || seconds_since(begin) < *duration_s)) {
        const std::optional<Arrival> arrival = feed.take(WAKE);
        if (!arrival) {
            if (feed.ended()) break;
            continue;
        }
        Image image;
        try {
            image = arrival->picture.load();
        } catch (const Error& error) {
            std::fprintf(stderr, "warning: %s\n", error.what());
            last = arrival->number;
            continue;
        }
        std::optional<float> given_threshold;
        if (threshold) given_threshold = static_cast<float>(*threshold);
        Prediction found = engine.predict({image.view()}, given_threshold, spend).front();
        const double came_s = std::chrono::duration<double>(arrival->came - begin).count();
        const double time_s = arrival->picture.at.value_or(std::max(0.0, came_s));
        if (steady) relabel(found, steady->update(found.scores, time_s), engine.labels());
        latencies.push_back(seconds_since(arrival->came) * 1e3);
        const long dropped = arrival->number - last - 1;
        last = arrival->number, lost += dropped, ++given;
        if (lines_to && !lines.write(line_of(*arrival, time_s, found, latencies.back(), dropped))) break;
        if (film) film->add(image, found);
        if (lines_to != "-") tell(time_s, found.labels, names);
        if (latencies.size() > 60) latencies.erase(latencies.begin());
    }
    if (film) film->keep();
    std::string took;
    if (given) {
        std::nth_element(latencies.begin(), latencies.begin() + static_cast<long>(latencies.size() / 2),
                         latencies.end());
        char text[64];
        std::snprintf(text, sizeof text, ", %.1f ms a frame", latencies[latencies.size() / 2]);
        took = text;
    }
    std::fprintf(stderr, "%ld frames in %.1f s%s; %ld dropped\n", given, seconds_since(begin), took.c_str(), lost);
}

}  // namespace
}  // namespace edge::tools

int main(int count, char** words) {
    using namespace edge::tools;
    const Arguments arguments(
        count, words, "mcar_edge_watch",
        "Recognise what a source shows until it ends, or an interrupt or SIGTERM ends it. SOURCE: a video file, "
        "rtsp://… or\nanother address, a camera (/dev/video0 or 0), a GStreamer pipeline that ends in appsink, a "
        "folder "
        "that fills. Of a stream\nor a camera the newest frame is taken, the others are dropped and counted.",
        {"BUNDLE", "SOURCE"},
        {{"--all", "", "every frame of a stream or camera, also when results come late"},
         {"--steady", "", "labels with two thresholds and a hold time: they do not flicker"},
         {"--effort", "E", "share of regions the second pass looks at, 0..1 (default: the bundle's own)"},
         {"--budget-ms", "MS", "time of a frame; regions that do not fit are not looked at"},
         {"--score-threshold", "T", "labels at or above this score (default: the bundle's own, else 0.5)"},
         {"--approximate-pixels", "", "decode and resize large frames faster, to slightly different pixels"},
         {"--json", "FILE", "write JSON Lines to FILE, one object a frame; - is standard output"},
         {"--draw", "OUT.avi", "write a film of the frames with what was found in them"},
         {"--frames", "N", "end after N frames"},
         {"--duration", "S", "end after S seconds"}});
    struct sigaction kept{};
    kept.sa_handler = [](int) { stop = 1; };
    kept.sa_flags = static_cast<int>(SA_RESETHAND);  // a second one ends us at once
    for (const int each : {SIGINT, SIGTERM}) sigaction(each, &kept, nullptr);
    std::signal(SIGPIPE, SIG_IGN);
    return run([&] { watch(arguments); });
}
