// Pictures from a thread of their own: the newest one, or each; a source that was lost is opened again; as
// edge/video/feed.py.
#pragma once

#include <chrono>
#include <condition_variable>
#include <deque>
#include <exception>
#include <mutex>
#include <optional>
#include <thread>

#include "video.h"

namespace edge::tools {

using Clock = std::chrono::steady_clock;

// number: in the source, from 0.
struct Arrival {
    Picture picture;
    long number = 0;
    Clock::time_point came;
};

class Feed {
  public:
    // every: lose none, though they get old; else of a live source only the newest is kept.
    Feed(std::unique_ptr<PictureSource> source, bool every);
    ~Feed();
    Feed(const Feed&) = delete;
    Feed& operator=(const Feed&) = delete;

    // The next picture; none if none came in this time, or none will. Throws Error where the source cannot be opened.
    std::optional<Arrival> take(std::chrono::milliseconds patience);

    // Whether there will be no more.
    bool ended();

  private:
    void read();
    void put(Picture picture);
    bool closed();

    const std::unique_ptr<PictureSource> source_;
    const bool newest_;
    std::mutex lock_;
    std::condition_variable changed_;
    std::deque<Arrival> waiting_;
    long count_ = 0;
    bool ended_ = false, closed_ = false;
    std::exception_ptr error_;
    std::thread thread_;
};

}  // namespace edge::tools
