#include "bundle.h"

#include <openssl/evp.h>

#include <algorithm>
#include <cmath>
#include <fstream>
#include <nlohmann/json.hpp>
#include <set>

namespace edge {
namespace {

namespace fs = std::filesystem;
using nlohmann::json;

constexpr int SCHEMA = 1;
constexpr const char* NAME = "manifest.json";
constexpr std::uint64_t MAX_MANIFEST_BYTES = 16u << 20;
constexpr int MAX_DEPTH = 64;
// The bounds of edge/bundle.py: what is allocated later follows from these.
constexpr std::int64_t MAX_SIZE = 4096, MAX_BATCH = 4096;
constexpr std::size_t MAX_CLASSES = 100000;
constexpr const char* REBUILD = "Rebuild the bundle: python -m edge.build --force";

[[noreturn]] void refuse(const std::string& must, const std::string& got, const std::string& expected,
                         const std::string& fix = REBUILD) {
    throw Error("load", must, got, expected, fix);
}

[[noreturn]] void refuse_form(const std::string& got) {
    refuse("the manifest must describe model, image and target", got, "a bundle made by edge.build");
}

const json& at(const json& object, const char* name, json::value_t type) {
    const auto found = object.find(name);
    if (found == object.end() || found->type() != type) refuse_form(std::string("no fit value of ") + name);
    return *found;
}

std::string text(const json& object, const char* name) { return at(object, name, json::value_t::string); }

std::string text_or_empty(const json& object, const char* name) {
    const auto found = object.find(name);
    return found != object.end() && found->is_string() ? found->get<std::string>() : std::string();
}

std::int64_t integer(const json& value, const char* name, std::int64_t least, std::int64_t most) {
    if (!value.is_number_integer()) refuse_form(std::string(name) + " without a whole number");
    // Unsigned values above the signed range would turn negative.
    const bool fits =
        value.is_number_unsigned() ? value.get<std::uint64_t>() <= static_cast<std::uint64_t>(most) : true;
    if (!fits || value.get<std::int64_t>() < least || value.get<std::int64_t>() > most)
        refuse(std::string(name) + " must be in range", value.dump(),
               std::to_string(least) + " to " + std::to_string(most));
    return value.get<std::int64_t>();
}

float number(const json& value, const char* name) {
    if (!value.is_number() || !std::isfinite(static_cast<float>(value.get<double>())))
        refuse_form(std::string(name) + " without a finite number");
    return static_cast<float>(value.get<double>());
}

bool plain(const std::string& name) {
    return !name.empty() && name.size() < 200 && name != "." && name != ".." &&
           name.find_first_of(std::string_view("/\\:\0", 4)) == std::string::npos;
}

std::array<float, 3> channels(const json& image, const char* name) {
    const json& values = at(image, name, json::value_t::array);
    if (values.size() != 3) refuse_form(std::string(name) + " without three channels");
    return {number(values[0], name), number(values[1], name), number(values[2], name)};
}

void read_model(const json& model, Bundle& bundle) {
    bundle.model = text(model, "name");
    std::set<std::string> names;
    for (const json& label : at(model, "labels", json::value_t::array)) {
        if (!label.is_string()) refuse_form("labels without names");
        if (!names.insert(label.get<std::string>()).second)
            refuse("class names must be unique", "one of them twice", "unique names", "Rename them");
        bundle.labels.push_back(label.get<std::string>());
    }
    if (bundle.labels.empty() || bundle.labels.size() > MAX_CLASSES)
        refuse("a model must have classes", std::to_string(bundle.labels.size()) + " labels",
               "1 to " + std::to_string(MAX_CLASSES));
    for (const json& value : at(model, "thresholds", json::value_t::array))
        bundle.thresholds.push_back(number(value, "thresholds"));
    if (bundle.thresholds.empty()) bundle.thresholds.assign(bundle.labels.size(), 0.5f);
    if (bundle.thresholds.size() != bundle.labels.size())
        refuse("there must be one threshold per class", std::to_string(bundle.thresholds.size()),
               std::to_string(bundle.labels.size()));
}

void read_image(const json& image, Bundle& bundle) {
    bundle.image.size = static_cast<int>(integer(image.value("size", json()), "size", 32, MAX_SIZE));
    if (bundle.image.size % 32)
        refuse("the image size must be a multiple of 32", std::to_string(bundle.image.size), "such as 256");
    bundle.image.mean = channels(image, "mean");
    bundle.image.std = channels(image, "std");
    for (const float value : bundle.image.std)
        if (!(value > 0)) refuse("std must be above 0", std::to_string(value), "three positive numbers");
}

void read_target(const json& target, Bundle& bundle) {
    bundle.backend = text(target, "backend");
    bundle.precision = text(target, "precision");
    if (bundle.precision != "fp32" && bundle.precision != "fp16" && bundle.precision != "int8")
        refuse("the precision must be known", bundle.precision, "fp32, fp16 or int8");
    for (const json& batch : at(target, "batches", json::value_t::array))
        bundle.batches.push_back(static_cast<std::size_t>(integer(batch, "batches", 1, MAX_BATCH)));
    if (bundle.batches.empty() || std::adjacent_find(bundle.batches.begin(), bundle.batches.end(),
                                                     std::greater_equal<>()) != bundle.batches.end())
        refuse("batch sizes must be ascending from 1 on", "another order", "such as 1 and 8");
    const auto float16 = target.find("float16");
    if (float16 != target.end() && !float16->is_null()) bundle.float16 = text(target, "float16");
}

void read_files(const json& manifest, Bundle& bundle) {
    for (const auto& [name, entry] : at(manifest, "files", json::value_t::object).items()) {
        if (!plain(name) || !entry.is_object())
            refuse("the manifest must list plain file names with digests", "another form", "names without folders");
        const std::string sha256 = text(entry, "sha256");
        const std::int64_t bytes = integer(entry.value("bytes", json()), "bytes", 0, std::int64_t{1} << 50);
        bundle.files[name] = {sha256, static_cast<std::uint64_t>(bytes)};
    }
}

// A name that will be opened must be one whose digest is checked.
std::string listed(const json& object, const char* name, const Bundle& bundle) {
    const std::string file = text(object, name);
    if (!bundle.files.count(file))
        refuse("what is loaded must be among the listed files", "another name in " + std::string(name),
               "a file of the bundle");
    return file;
}

void read_engine(const json& engine, Bundle& bundle) {
    bundle.plan.payload = listed(engine, "payload", bundle);
    const auto plugin = engine.find("plugin");
    if (plugin != engine.end() && !plugin->is_null()) {
        if (!plugin->is_object()) refuse_form("no fit value of plugin");
        bundle.plan.plugin = listed(*plugin, "file", bundle);
    }
    if (engine.contains("plan_bytes"))
        bundle.plan.bytes =
            static_cast<std::uint64_t>(integer(engine["plan_bytes"], "plan_bytes", 0, std::int64_t{1} << 40));
    for (const json& profile : engine.value("profiles", json::array())) {
        if (!profile.is_array() || profile.size() != 3) refuse_form("profiles without three batches");
        std::array<int, 3> batches{};
        for (std::size_t i = 0; i < 3; ++i)
            batches[i] = static_cast<int>(integer(profile[i], "profiles", 1, MAX_BATCH));
        bundle.plan.profiles.push_back(batches);
    }
    const json machine = engine.value("machine", json::object());
    if (!machine.is_object()) refuse_form("no fit value of machine");
    bundle.plan.version = text_or_empty(machine, "version");
    bundle.plan.compute_capability = text_or_empty(machine, "compute_capability");
}

std::string digest(const fs::path& file) {
    const std::unique_ptr<EVP_MD_CTX, decltype(&EVP_MD_CTX_free)> context(EVP_MD_CTX_new(), EVP_MD_CTX_free);
    std::ifstream stream(file, std::ios::binary);
    std::vector<char> block(1 << 20);
    if (!context || EVP_DigestInit_ex(context.get(), EVP_sha256(), nullptr) != 1) return "";
    while (stream.read(block.data(), static_cast<std::streamsize>(block.size())), stream.gcount() > 0)
        EVP_DigestUpdate(context.get(), block.data(), static_cast<std::size_t>(stream.gcount()));
    std::array<unsigned char, EVP_MAX_MD_SIZE> raw{};
    unsigned length = 0;
    if (stream.bad() || EVP_DigestFinal_ex(context.get(), raw.data(), &length) != 1) return "";
    std::string hex;
    for (unsigned i = 0; i < length; ++i) {
        hex += "0123456789abcdef"[raw[i] >> 4];
        hex += "0123456789abcdef"[raw[i] & 15];
    }
    return hex;
}

void verify(const Bundle& bundle) {
    const char* fix = "Rebuild the bundle or copy it again: python -m edge.build --force";
    for (const auto& [name, entry] : bundle.files) {
        const fs::path file = bundle.path / name;
        std::error_code error;
        // A link could point anywhere: a bundle holds its files itself.
        if (fs::symlink_status(file, error).type() != fs::file_type::regular)
            refuse("every listed file must be in the bundle", "no file " + file.string(), name, fix);
        if (fs::file_size(file, error) != entry.bytes || error || digest(file) != entry.sha256)
            refuse("every file must be as it was built", file.string() + " changed or truncated",
                   "sha256 " + entry.sha256.substr(0, 12) + "…", fix);
    }
    // A backend opens some files by their fixed names: one that is not listed would go in unchecked.
    std::error_code error;
    for (fs::directory_iterator entry(bundle.path, error), end; !error && entry != end; entry.increment(error)) {
        const std::string name = entry->path().filename().string();
        if (name.rfind("engine.", 0) == 0 && !bundle.files.count(name))
            refuse("every file of the engine must be listed", entry->path().string() + " beside it", "its digest", fix);
    }
    if (error) refuse("a bundle must be readable", error.message(), "a folder", fix);
}

}  // namespace

std::string read_file(const fs::path& file, std::uint64_t most, const std::string& stage) {
    std::error_code error;
    if (!fs::is_regular_file(file, error))
        throw Error(stage, "what is read must be a file", "no file " + file.string(), "a file", "Check the path");
    const std::uint64_t bytes = fs::file_size(file, error);
    if (error || bytes > most)
        throw Error(stage, "a file must be small enough to read", file.string() + " of " + std::to_string(bytes),
                    "at most " + std::to_string(most) + " bytes", "Check the path");
    std::string data(bytes, '\0');
    std::ifstream stream(file, std::ios::binary);
    stream.read(data.data(), static_cast<std::streamsize>(bytes));
    if (static_cast<std::uint64_t>(stream.gcount()) != bytes)
        throw Error(stage, "a file must be readable", file.string(), std::to_string(bytes) + " bytes",
                    "Check its permissions");
    return data;
}

Bundle parse_manifest(std::string_view text_, const fs::path& folder) {
    if (text_.size() > MAX_MANIFEST_BYTES)
        refuse("a manifest must be small", std::to_string(text_.size()) + " bytes",
               "at most " + std::to_string(MAX_MANIFEST_BYTES));
    json manifest;
    try {
        manifest = json::parse(text_, [](int depth, json::parse_event_t, const json&) {
            if (depth > MAX_DEPTH) refuse("the manifest must be JSON", "values nested too deep", "an object");
            return true;
        });
    } catch (const json::exception& error) {
        // The library's words quote the input; a number of the byte is enough.
        const auto* place = dynamic_cast<const json::parse_error*>(&error);
        refuse("the manifest must be JSON",
               (folder / NAME).string() + (place ? ": broken at byte " + std::to_string(place->byte) : ""),
               "an object");
    }
    if (!manifest.is_object()) refuse("the manifest must be JSON", "another value", "an object");
    const auto schema = manifest.find("schema");
    if (schema == manifest.end() || !schema->is_number_integer() || *schema != SCHEMA)
        refuse("the manifest's schema must be known", (folder / NAME).string() + " with another",
               std::to_string(SCHEMA));
    Bundle bundle;
    bundle.path = folder;
    read_files(manifest, bundle);
    read_model(at(manifest, "model", json::value_t::object), bundle);
    read_image(at(manifest, "image", json::value_t::object), bundle);
    read_target(at(manifest, "target", json::value_t::object), bundle);
    read_engine(at(manifest, "engine", json::value_t::object), bundle);
    const auto tools = manifest.find("tools"), machine = manifest.find("machine");
    if (tools != manifest.end() && tools->is_object()) bundle.runtime = text_or_empty(*tools, bundle.backend.c_str());
    if (machine != manifest.end() && machine->is_object())
        bundle.architecture = text_or_empty(*machine, "architecture");
    return bundle;
}

Bundle read_bundle(const fs::path& folder) {
    std::error_code error;
    if (!fs::is_regular_file(folder / NAME, error))
        refuse("a bundle must hold its manifest", "no " + (folder / NAME).string(),
               std::string("a folder with ") + NAME, "Build one: python -m edge.build");
    Bundle bundle = parse_manifest(read_file(folder / NAME, MAX_MANIFEST_BYTES, "load"), folder);
    verify(bundle);
    return bundle;
}

}  // namespace edge
