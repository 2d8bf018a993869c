// manifest.json to a Bundle, by the rules of edge/manifest.py and edge/bundle.py. Opens no file.
#include <algorithm>
#include <functional>
#include <set>

#include "bundle.h"
#include "runner.h"
#include "values.h"

namespace edge {
namespace {

constexpr int OLDEST = 1, SCHEMA = 2;  // 1: every engine is one graph
constexpr int MAX_DEPTH = 64;
// Further bounds of edge/bundle.py.
constexpr std::int64_t MAX_SIZE = 4096;
constexpr std::size_t MAX_CLASSES = 100000, MAX_STEPS = 1001;
constexpr double MAX_AREA = 1e9;  // pixels

[[noreturn]] void refuse(const std::string& problem) { throw Error("load", problem, REBUILD); }

bool plain(const std::string& name) {
    return !name.empty() && name.size() < 200 && name != "." && name != ".." &&
           name.find_first_of(std::string_view("/\\:\0", 4)) == std::string::npos;
}

// Whole numbers from 1 on.
std::vector<std::size_t> ascending(const json& object, const char* name, std::int64_t most) {
    std::vector<std::size_t> values;
    for (const json& value : member(object, name, json::value_t::array))
        values.push_back(static_cast<std::size_t>(integer(value, name, 1, most)));
    if (values.empty() || std::adjacent_find(values.begin(), values.end(), std::greater_equal<>()) != values.end())
        refuse_value(name, "are not ascending");
    return values;
}

std::array<float, 3> channels(const json& image, const char* name) {
    const json& values = member(image, name, json::value_t::array);
    if (values.size() != 3) refuse_value(name, "does not have three channels");
    return {number(values[0], name), number(values[1], name), number(values[2], name)};
}

void read_model(const json& model, Bundle& bundle) {
    refuse_unknown(model, "model", {"name", "labels", "options", "thresholds"});
    bundle.model = text(model, "name");
    std::set<std::string> names;
    for (const json& label : member(model, "labels", json::value_t::array)) {
        if (!label.is_string()) refuse_value("labels", "are not all names");
        if (!names.insert(label.get<std::string>()).second) refuse_value("labels", "contain a name twice");
        bundle.labels.push_back(label.get<std::string>());
    }
    if (bundle.labels.empty() || bundle.labels.size() > MAX_CLASSES)
        refuse_value("labels",
                     "are " + std::to_string(bundle.labels.size()) + ", not 1 to " + std::to_string(MAX_CLASSES));
    for (const json& value : member(model, "thresholds", json::value_t::array))
        bundle.thresholds.push_back(number(value, "thresholds"));
    if (bundle.thresholds.empty()) bundle.thresholds.assign(bundle.labels.size(), 0.5f);
    if (bundle.thresholds.size() != bundle.labels.size())
        refuse_value("thresholds", "are " + std::to_string(bundle.thresholds.size()) + " for " +
                                       std::to_string(bundle.labels.size()) + " classes");
}

void read_image(const json& image, Bundle& bundle) {
    refuse_unknown(image, "image", {"size", "mean", "std", "input"});
    bundle.image.size = static_cast<int>(integer(image.value("size", json()), "size", 32, MAX_SIZE));
    if (bundle.image.size % 32)
        refuse_value("size", "is " + std::to_string(bundle.image.size) + ", which is not a multiple of 32");
    const std::string input = image.count("input") ? text(image, "input") : "float32";
    if (input != "float32" && input != "uint8")
        refuse_value("input", "is " + input.substr(0, 40) + ", not float32 or uint8");
    bundle.image.uint8 = input == "uint8";
    bundle.image.mean = channels(image, "mean");
    bundle.image.std = channels(image, "std");
    for (const float value : bundle.image.std)
        if (!(value > 0)) refuse_value("std", "has " + std::to_string(value) + ", which is not above 0");
}

void read_target(const json& target, Bundle& bundle) {
    refuse_unknown(target, "target", {"backend", "precision", "batches", "float16", "reduced_range"});
    bundle.backend = text(target, "backend");
    bundle.precision = text(target, "precision");
    if (bundle.precision != "fp32" && bundle.precision != "fp16" && bundle.precision != "int8")
        refuse_value("precision", "is " + bundle.precision.substr(0, 40) + ", not fp32, fp16 or int8");
    bundle.batches = ascending(target, "batches", MAX_BATCH);
    const auto float16 = target.find("float16");
    if (float16 != target.end() && !float16->is_null()) bundle.float16 = text(target, "float16");
    // Only engines of ONNX Runtime differ by it, which is not run here.
    const auto range = target.find("reduced_range");
    if (range != target.end() && !range->is_null()) member(target, "reduced_range", json::value_t::boolean);
}

// Scores within 0 to 1.
std::vector<double> bounds(const json& rule, const char* name) {
    std::vector<double> values;
    for (const json& value : member(rule, name, json::value_t::array)) {
        number(value, "rule");
        values.push_back(value.get<double>());
        if (!(values.back() >= 0 && values.back() <= 1))
            refuse_value("rule", "is damaged: a score lies outside 0 to 1");
    }
    return values;
}

// Intervals of scores at efforts from 0 to 1; each must hold the one before.
Intervals read_intervals(const json& rule, const char* low, const char* high) {
    Intervals found{bounds(rule, low), bounds(rule, high)};
    const bool widens = found.low.size() >= 2 && found.low.size() == found.high.size() &&
                        found.low.size() <= MAX_STEPS && std::is_sorted(found.low.rbegin(), found.low.rend()) &&
                        std::is_sorted(found.high.begin(), found.high.end()) && found.low[0] <= found.high[0];
    if (!widens) refuse_value("rule", "is damaged: its score intervals do not widen");
    return found;
}

// A limit for redundant regions; negative where there is none.
double read_limit(const json& rule, const char* name, double most) {
    const auto found = rule.find(name);
    if (found == rule.end() || found->is_null()) return -1;
    number(*found, "rule");
    const double limit = found->get<double>();
    if (!(limit >= 0 && limit <= most)) refuse_value("rule", "is damaged: a limit is out of range");
    return limit;
}

// Where the second stage looks: by rank, or within intervals that widen with the effort.
Rule read_rule(const json& found) {
    if (found.is_string()) {
        if (found.get<std::string>() != "rank") refuse_value("rule", "is neither rank nor an interval");
        return {};
    }
    if (!found.is_object()) refuse_value("rule", "has the wrong type");
    refuse_unknown(found, "rule",
                   {"kind", "low", "high", "fitted_on", "max_overlap", "max_area", "redundant_low", "redundant_high"});
    const std::string kind = text(found, "kind");
    Rule rule;
    rule.max_overlap = read_limit(found, "max_overlap", 1);
    rule.max_area = read_limit(found, "max_area", MAX_AREA);
    const bool tells_redundant = rule.max_overlap >= 0 || rule.max_area >= 0;
    // What a rule has no use for is absent or empty.
    const auto none = [&](const char* name) { return !found.count(name) || bounds(found, name).empty(); };
    if (!tells_redundant && !(none("redundant_low") && none("redundant_high")))
        refuse_value("rule", "is damaged: intervals for redundant regions without a limit");
    if (kind == "rank" && none("low") && none("high") && !tells_redundant) return rule;
    if (kind != "interval") refuse_value("rule", "is neither rank nor an interval");
    rule.first = read_intervals(found, "low", "high");
    if (tells_redundant) rule.redundant = read_intervals(found, "redundant_low", "redundant_high");
    return rule;
}

// How a second pass runs; null where the engine is one graph.
void read_stages(const json& manifest, Bundle& bundle) {
    const auto found = manifest.find("stages");
    if (found == manifest.end() || found->is_null()) return;
    const json& stages = member(manifest, "stages", json::value_t::object);
    refuse_unknown(stages, "stages", {"sizes", "rule", "effort", "thresholds"});
    bundle.sizes = ascending(stages, "sizes", MAX_REGIONS);
    if (stages.count("rule")) bundle.rule = read_rule(stages["rule"]);
    if (stages.count("effort")) {
        number(stages["effort"], "effort");
        bundle.effort = stages["effort"].get<double>();
        if (!(bundle.effort >= 0 && bundle.effort <= 1)) refuse_value("effort", "is not within 0 to 1");
    }
    if (!stages.count("thresholds")) return;
    for (const json& value : member(stages, "thresholds", json::value_t::array))
        bundle.effort_thresholds.push_back(number(value, "thresholds"));
    if (!bundle.effort_thresholds.empty() && bundle.effort_thresholds.size() != bundle.labels.size())
        refuse_value("thresholds", "are " + std::to_string(bundle.effort_thresholds.size()) + " for " +
                                       std::to_string(bundle.labels.size()) + " classes");
}

void read_files(const json& manifest, Bundle& bundle) {
    for (const auto& [name, entry] : member(manifest, "files", json::value_t::object).items()) {
        if (!plain(name) || !entry.is_object()) refuse_value("files", "are not plain names with digests");
        const std::string sha256 = text(entry, "sha256");
        const std::int64_t bytes = integer(entry.value("bytes", json()), "bytes", 0, std::int64_t{1} << 50);
        bundle.files[name] = {sha256, static_cast<std::uint64_t>(bytes)};
    }
}

}  // namespace

Bundle parse_manifest(std::string_view text_, const std::filesystem::path& folder) {
    json manifest;
    try {
        manifest = json::parse(text_, [](int depth, json::parse_event_t, const json&) {
            if (depth > MAX_DEPTH) refuse("The manifest nests more than " + std::to_string(MAX_DEPTH) + " values");
            return true;
        });
    } catch (const json::exception& error) {
        // The library's words quote the input; a number of the byte is enough.
        const auto* place = dynamic_cast<const json::parse_error*>(&error);
        refuse((folder / MANIFEST).string() + " is not JSON" +
               (place ? ": broken at byte " + std::to_string(place->byte) : ""));
    }
    if (!manifest.is_object()) refuse((folder / MANIFEST).string() + " is not a JSON object");
    const auto schema = manifest.find("schema");
    if (schema == manifest.end() || !schema->is_number_integer() || *schema < OLDEST || *schema > SCHEMA)
        refuse((folder / MANIFEST).string() + " has an unknown schema; this version reads schemas " +
               std::to_string(OLDEST) + " and " + std::to_string(SCHEMA));
    Bundle bundle;
    bundle.path = folder;
    read_files(manifest, bundle);
    read_model(member(manifest, "model", json::value_t::object), bundle);
    read_image(member(manifest, "image", json::value_t::object), bundle);
    read_target(member(manifest, "target", json::value_t::object), bundle);
    read_stages(manifest, bundle);
    bundle.engine = member(manifest, "engine", json::value_t::object);
    // A backend of another release is refused where the engine is opened.
    const auto backend = backends().find(bundle.backend);
    for (const std::string& name : backend == backends().end() ? std::vector{text(bundle.engine, "payload")}
                                                               : backend->second.files(bundle.engine))
        if (!bundle.files.count(name)) refuse_value("engine", "would load a file that is not listed");
    const auto tools = manifest.find("tools"), machine = manifest.find("machine");
    if (tools != manifest.end() && tools->is_object()) bundle.runtime = text_or_empty(*tools, bundle.backend.c_str());
    if (machine != manifest.end() && machine->is_object())
        bundle.architecture = text_or_empty(*machine, "architecture");
    return bundle;
}

}  // namespace edge
