#include "video.h"

#include <sys/stat.h>

#include <algorithm>
#include <cerrno>
#include <chrono>
#include <cstdlib>
#include <cstring>
#include <filesystem>
#include <map>
#include <opencv2/core/utils/logger.hpp>
#include <opencv2/imgproc.hpp>
#include <opencv2/videoio.hpp>
#include <opencv2/videoio/registry.hpp>
#include <regex>
#include <set>
#include <thread>
#include <tuple>
#include <utility>
#include <vector>

namespace edge::tools {
namespace {

namespace fs = std::filesystem;

constexpr int PATIENCE_MS = 5000;  // without a picture, a stream counts as lost
constexpr std::chrono::milliseconds POLL(100);
// A camera in the network: no waiting for a better guess of its format, no packets that come too late to count.
constexpr const char* NETWORK = "rtsp_transport;tcp|fflags;nobuffer|flags;low_delay|analyzeduration;500000";
constexpr const char* OPTIONS = "OPENCV_FFMPEG_CAPTURE_OPTIONS";

Image to_rgb(const cv::Mat& frame) {
    Image image{frame.cols, frame.rows, std::vector<std::uint8_t>(frame.total() * 3)};
    cv::Mat rgb(frame.rows, frame.cols, CV_8UC3, image.pixels.data());
    cv::cvtColor(frame, rgb, frame.channels() == 1 ? cv::COLOR_GRAY2RGB : cv::COLOR_BGR2RGB);
    return image;
}

// Whatever OpenCV opens by that back end.
class Video : public PictureSource {
  public:
    Video(std::string name, int backend, bool live) : PictureSource(live), name_(std::move(name)), backend_(backend) {}

    void open() override {
        start_.reset(), last_.reset();
        const std::vector<int> waits{cv::CAP_PROP_OPEN_TIMEOUT_MSEC, PATIENCE_MS, cv::CAP_PROP_READ_TIMEOUT_MSEC,
                                     PATIENCE_MS};
        const bool opened =
            backend_ == cv::CAP_FFMPEG && live ? capture_.open(name_, backend_, waits) : capture_.open(name_, backend_);
        if (!opened)
            throw Error("video", "Cannot read " + std::regex_replace(name_, std::regex("//[^/@]*@"), "//"),
                        "Check that it is there and is a video");
        capture_.set(cv::CAP_PROP_ORIENTATION_AUTO, 0);  // as Python's
    }

    std::optional<Picture> next(const std::function<bool()>&) override {
        cv::Mat frame;  // a new one each time: pictures wait for who takes them
        if (!capture_.read(frame) || frame.empty()) return {};
        std::optional<double> at;
        if (!live) {
            at = capture_.get(cv::CAP_PROP_POS_MSEC) / 1e3;
            // Of the last pictures, which the decoder had held back, OpenCV does not tell the time.
            if (last_ && *at <= *last_) at = *last_ + 1 / std::max(1.0, capture_.get(cv::CAP_PROP_FPS));
            last_ = at;
            if (!start_) start_ = at;
            *at -= *start_;
        }
        return Picture{[frame] { return to_rgb(frame); }, at};
    }

  private:
    const std::string name_;
    const int backend_;
    cv::VideoCapture capture_;
    std::optional<double> start_, last_;
};

// Photographs that appear in a folder, in the order of their age and then name; those that are there come first.
class Folder : public PictureSource {
  public:
    explicit Folder(fs::path path) : PictureSource(false), path_(std::move(path)) {}

    void open() override {}

    std::optional<Picture> next(const std::function<bool()>& stopped) override {
        while (!stopped()) {
            if (!ready_.empty()) {
                const fs::path file = path_ / std::get<1>(*ready_.begin());
                seen_.insert(*ready_.begin());
                ready_.erase(ready_.begin());
                return Picture{[file] { return decode(file); }, {}};
            }
            look();
            if (ready_.empty()) std::this_thread::sleep_for(POLL);
        }
        return {};
    }

  private:
    using Key = std::tuple<fs::file_time_type, std::string, std::uintmax_t>;  // age, name, size

    // One that is still being written changes: it is taken when two looks agree, or when it is old.
    void look() {
        std::set<Key> found, growing;
        std::error_code error;
        for (fs::directory_iterator each(path_, error), end; !error && each != end; each.increment(error)) {
            const std::string name = each->path().filename();
            std::error_code gone;
            Key key{each->last_write_time(gone), name, 0};
            if (!gone) std::get<2>(key) = each->file_size(gone);
            if (!gone && is_photograph(name)) found.insert(key);
        }
        if (error) throw Error("video", "Cannot read " + path_.string() + ": " + error.message(), "Make it readable");
        for (const Key& key : found) {
            if (seen_.count(key)) continue;
            const bool old = fs::file_time_type::clock::now() - std::get<0>(key) > 10 * POLL;
            (old || growing_.count(key) ? ready_ : growing).insert(key);
        }
        std::set<Key> still;  // of files that are gone nothing is kept
        std::set_intersection(seen_.begin(), seen_.end(), found.begin(), found.end(),
                              std::inserter(still, still.end()));
        seen_ = std::move(still);
        growing_ = std::move(growing);
    }

    static bool is_photograph(const std::string& name) {
        return std::regex_search(name, std::regex("^[^.].*\\.(jpe?g|png)$", std::regex::icase));
    }

    const fs::path path_;
    std::set<Key> seen_, growing_, ready_;
};

}  // namespace

std::unique_ptr<PictureSource> open_source(const std::string& name) {
    cv::utils::logging::setLogLevel(cv::utils::logging::LOG_LEVEL_SILENT);
    setenv("OPENCV_FFMPEG_LOGLEVEL", "-8", 0);  // what is wrong is one line of ours
    const bool has_ffmpeg = cv::videoio_registry::hasBackend(cv::CAP_FFMPEG);
    const int files = has_ffmpeg ? cv::CAP_FFMPEG : cv::CAP_ANY;
    if (name.find(" ! ") != std::string::npos) return std::make_unique<Video>(name, cv::CAP_GSTREAMER, true);
    if (std::regex_search(name, std::regex("^[a-z][a-z0-9+.-]*://", std::regex::icase))) {
        setenv(OPTIONS, NETWORK, 0);
        return std::make_unique<Video>(name, files, true);
    }
    const bool number = !name.empty() && name.find_first_not_of("0123456789") == std::string::npos && !fs::exists(name);
    const std::string path = number ? "/dev/video" + name : name;
    struct stat found{};
    if (stat(path.c_str(), &found) != 0)
        throw Error("video", "Cannot open " + path + ": " + std::strerror(errno),
                    "Give a video file, a folder, a camera such as /dev/video0, rtsp://… or a GStreamer pipeline");
    if (S_ISDIR(found.st_mode)) return std::make_unique<Folder>(path);
    if (S_ISCHR(found.st_mode)) return std::make_unique<Video>(path, cv::CAP_V4L2, true);
    return std::make_unique<Video>(path, files, false);
}

}  // namespace edge::tools
