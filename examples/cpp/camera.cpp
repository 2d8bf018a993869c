// A camera, a stream or a video file: every frame through the engine, its regions drawn into it.
//   camera BUNDLE SOURCE [OUTPUT.avi]      SOURCE: a number for /dev/videoN, a file, an address or a GStreamer pipeline
#include <chrono>
#include <cstdio>
#include <edge/engine.hpp>
#include <opencv2/imgproc.hpp>
#include <opencv2/videoio.hpp>
#include <string>

namespace {

const cv::Scalar STRONG(61, 196, 255), WEAK(160, 160, 160);  // BGR: regions of a class that was found, others

void draw(cv::Mat& frame, const edge::Prediction& prediction) {
    for (const edge::Region& region : prediction.regions) {
        bool found = false;
        for (const edge::Label& label : prediction.labels) found |= label.name == region.label;
        const cv::Point2f from(region.box[0], region.box[1]), to(region.box[2], region.box[3]);
        cv::rectangle(frame, cv::Rect2f(from, to), found ? STRONG : WEAK, found ? 2 : 1);
        cv::putText(frame, cv::format("%s %.2f", region.label.c_str(), region.score), from + cv::Point2f(3, 14),
                    cv::FONT_HERSHEY_SIMPLEX, 0.45, found ? STRONG : WEAK, 1, cv::LINE_AA);
    }
    int line = 0;
    for (const edge::Label& label : prediction.labels)
        cv::putText(frame, cv::format("%s %.2f", label.name.c_str(), label.score), {6, frame.rows - 8 - 16 * line++},
                    cv::FONT_HERSHEY_SIMPLEX, 0.5, STRONG, 1, cv::LINE_AA);
}

int watch(const std::string& bundle, const std::string& source, const std::string& output) {
    const edge::Engine engine = edge::Engine::load(bundle);
    const bool camera = source.find_first_not_of("0123456789") == std::string::npos;
    cv::VideoCapture capture;
    if (!(camera ? capture.open(std::stoi(source)) : capture.open(source)))
        throw edge::Error("camera", "Cannot open " + source,
                          "Pass a camera's number, a video or a pipeline that another player shows");
    cv::VideoWriter writer;
    cv::Mat frame, rgb;
    double seconds = 0;
    int frames = 0;
    for (; capture.read(frame); ++frames) {
        const auto start = std::chrono::steady_clock::now();
        cv::cvtColor(frame, rgb, cv::COLOR_BGR2RGB);
        const edge::View photo{rgb.data, rgb.cols, rgb.rows, rgb.step[0]};
        const edge::Prediction prediction = engine.predict({photo}).front();
        seconds += std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
        draw(frame, prediction);
        if (output.empty()) continue;
        const double rate = capture.get(cv::CAP_PROP_FPS);
        if (!writer.isOpened() &&
            !writer.open(output, cv::VideoWriter::fourcc('M', 'J', 'P', 'G'), rate > 0 ? rate : 25, frame.size()))
            throw edge::Error("camera", "Cannot write " + output, "Choose a writable path that ends in .avi");
        writer.write(frame);
    }
    std::printf("%d frames, %.2f ms each\n", frames, frames ? 1e3 * seconds / frames : 0.0);
    return frames ? 0 : 1;
}

}  // namespace

int main(int count, char** words) {
    if (count < 3) {
        std::fprintf(stderr, "usage: camera BUNDLE SOURCE [OUTPUT.avi]\n");
        return 2;
    }
    try {
        return watch(words[1], words[2], count > 3 ? words[3] : "");
    } catch (const std::exception& error) {
        std::fprintf(stderr, "%s\n", error.what());
        return 1;
    }
}
