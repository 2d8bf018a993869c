// What runs an engine: the contract of a backend, and the table of backends.
#pragma once

#include <cstddef>
#include <cstdint>
#include <map>
#include <memory>
#include <string>
#include <vector>

#include "bundle.h"

namespace edge {

// Of an input or output: its element type (f32, i32 and i64 are read here), and its shape; -1 is a size left open.
struct Form {
    std::string type;
    std::vector<std::int64_t> shape;
};
using Forms = std::map<std::string, Form>;

constexpr const char* INPUT = "image";
// What the second stage takes beside the images, and gives.
constexpr const char* BOXES = "boxes";
constexpr const char* OWNER = "owner";
constexpr const char* REGION_SCORES = "region_scores";
// The stages of an engine that has two: one finds regions, the other recognises what is in them.
constexpr const char* LOOK = "look";
constexpr const char* CLOSER = "closer";

// An output that engines may have: the field of Outputs that it fills.
struct Field {
    const char* name;
    std::vector<float> Outputs::* floats;  // null for region_classes
    bool of_regions;

    std::size_t size(const Outputs& of) const { return floats ? (of.*floats).size() : of.region_classes.size(); }

    // Copies as many values as the field holds; whole numbers are of 4 bytes or of 8.
    void copy(const void* from, bool four_bytes, Outputs& to) const;
};

// By its name; null where no engine has such an output.
const Field* find_field(const std::string& name);

// What an engine gives per image: C classes, K regions (0 for a model without), which scores.
struct Layout {
    std::size_t classes = 0, regions = 0;
    bool global_scores = false, local_scores = false;
};

// Refuses the engine as another than its manifest describes; found: a sentence of what it has.
[[noreturn]] void refuse_form(const Bundle& bundle, const std::string& found);

// What a backend keeps for one call, from its first stage to its last; a GPU has the images there.
class Held {
  public:
    virtual ~Held() = default;
};

// The images of one call.
struct Images {
    const void* values;  // (count, 3, S, S) float32, or (count, S, S, 3) uint8 where the bundle says so
    std::size_t count;
    std::size_t batch;           // the engine runs for so many, one of the bundle's; at least count
    std::unique_ptr<Held> held;  // the first stage's; null before it, and where images are read in place
};

// A loaded engine of one graph, or the first stage of one that has two. Threads may call at once.
class Runner {
  public:
    virtual ~Runner() = default;

    // What it takes and gives, by name.
    virtual Forms forms() const = 0;

    // Outputs hold `images.count` rows, and have been resized for them.
    virtual void run(Images& images, Outputs& outputs) = 0;

    // Takes back what `run` held, for the next call. After an error it is not called: that is destroyed instead.
    virtual void release(Images&) {}
};

// The second stage. Threads may call at once.
class Closer {
  public:
    virtual ~Closer() = default;

    virtual Forms forms() const = 0;

    // images: those that the first stage of the same engine has run for; boxes: (size, 4); owner: (size,), whose image
    // a box is of; size: one of the bundle's. Writes scores: (size, C).
    virtual void run(const Images& images, const float* boxes, const std::int32_t* owner, std::size_t size,
                     float* scores) = 0;

    // Whether it takes hardly longer for a few regions more, so that one padded call is better than two exact ones: as
    // on a GPU. On a CPU the time goes with the number of regions.
    virtual bool pads() const { return true; }
};

struct Runners {
    std::unique_ptr<Runner> first;
    std::unique_ptr<Closer> closer;  // null for an engine of one graph
};

// Refuses an engine that takes or gives anything else than its manifest describes; how many at once may be left open.
Layout check_forms(const Bundle& bundle, const Runners& found);

// A row of the table.
struct Backend {
    // Checks what the backend wrote into the manifest's `engine`, which it alone can judge; names the files it opens.
    std::vector<std::string> (*files)(const nlohmann::json& engine);
    // Refuses, before it reads the engine, a bundle that does not fit this machine. Null where the library is built
    // without this backend.
    Runners (*open)(const Bundle& bundle, const Contents& contents);
};

// By the names that manifests give them.
const std::map<std::string, Backend>& backends();

}  // namespace edge
