// Where pictures come from: a video file, the address of a stream, a camera, a GStreamer pipeline, a folder that fills;
// as edge/video/sources.py.
#pragma once

#include <functional>
#include <memory>
#include <optional>
#include <string>

#include "edge/engine.hpp"

namespace edge::tools {

// load: converts or decodes it; throws Error where it is damaged. at: seconds from the start of a file.
struct Picture {
    std::function<Image()> load;
    std::optional<double> at;
};

class PictureSource {
  public:
    explicit PictureSource(bool live) : live(live) {}
    virtual ~PictureSource() = default;

    // Begins it, or begins it anew; throws Error.
    virtual void open() = 0;

    // Waits for the next picture; none once it ended, or once `stopped` says so.
    virtual std::optional<Picture> next(const std::function<bool()>& stopped) = 0;

    const bool live;  // its pictures get old: only the newest counts, and what is lost is opened again
};

// Throws Error where there is nothing of that name.
std::unique_ptr<PictureSource> open_source(const std::string& name);

}  // namespace edge::tools
