#include "feed.h"

#include <algorithm>
#include <cstdio>

namespace edge::tools {
namespace {

using std::chrono::milliseconds;

constexpr std::size_t AHEAD = 4;  // pictures that wait where none may be lost; the source waits for more room
constexpr milliseconds FIRST_PAUSE(100), LONGEST_PAUSE(1000);  // before a source is opened again; doubled each time

}  // namespace

Feed::Feed(std::unique_ptr<PictureSource> source, bool every)
    : source_(std::move(source)), newest_(source_->live && !every), thread_([this] { read(); }) {}

Feed::~Feed() {
    {
        const std::lock_guard<std::mutex> held(lock_);
        closed_ = true;
    }
    changed_.notify_all();
    thread_.join();  // one that waits for the network is given up after its patience
}

std::optional<Arrival> Feed::take(milliseconds patience) {
    std::unique_lock<std::mutex> held(lock_);
    changed_.wait_for(held, patience, [&] { return !waiting_.empty() || ended_; });
    if (waiting_.empty()) {
        if (ended_ && error_) std::rethrow_exception(error_);
        return {};
    }
    Arrival arrival = std::move(waiting_.front());
    waiting_.pop_front();
    changed_.notify_all();
    return arrival;
}

bool Feed::ended() {
    const std::lock_guard<std::mutex> held(lock_);
    return ended_ && waiting_.empty();
}

bool Feed::closed() {
    const std::lock_guard<std::mutex> held(lock_);
    return closed_;
}

void Feed::read() {
    milliseconds pause = FIRST_PAUSE;
    while (!closed()) {
        const long before = count_;
        std::string why = "it ended";
        error_ = nullptr;
        try {
            source_->open();
            while (std::optional<Picture> picture = source_->next([this] { return closed(); })) {
                put(std::move(*picture));
                if (closed()) break;
            }
        } catch (const std::exception& error) {
            error_ = std::current_exception(), why = error.what();
        }
        if (!source_->live || !count_ || closed()) break;
        if (count_ > before) {
            pause = FIRST_PAUSE;
            std::fprintf(stderr, "warning: the stream was lost (%s); opening it again\n", why.c_str());
        }
        std::unique_lock<std::mutex> held(lock_);
        changed_.wait_for(held, pause, [&] { return closed_; });
        pause = std::min(2 * pause, LONGEST_PAUSE);
    }
    const std::lock_guard<std::mutex> held(lock_);
    ended_ = true;
    changed_.notify_all();
}

void Feed::put(Picture picture) {
    std::unique_lock<std::mutex> held(lock_);
    if (newest_)
        waiting_.clear();
    else
        changed_.wait(held, [&] { return waiting_.size() < AHEAD || closed_; });
    waiting_.push_back({std::move(picture), count_++, Clock::now()});
    changed_.notify_all();
}

}  // namespace edge::tools
