#include "bundle.h"

#include <dirent.h>
#include <fcntl.h>
#include <openssl/evp.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <chrono>
#include <cmath>
#include <cstdlib>
#include <cstring>
#include <new>
#include <nlohmann/json.hpp>
#include <set>
#include <thread>

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
constexpr int TRIES = 5;  // while the folder's name is given to others
constexpr std::chrono::milliseconds PAUSE(10);
constexpr std::size_t PAGE = 4096;  // bytes, as a memory map is aligned
constexpr const char* BUILD = "Build one: python -m edge.build";
constexpr const char* REBUILD = "Rebuild the bundle: python -m edge.build --force";
constexpr const char* COPY_AGAIN = "Copy the bundle again, or rebuild it: python -m edge.build --force";

[[noreturn]] void refuse(const std::string& problem, const std::string& fix = REBUILD) {
    throw Error("load", problem, fix);
}

[[noreturn]] void refuse_value(const char* name, const std::string& problem) {
    refuse(std::string("The manifest's '") + name + "' " + problem);
}

[[noreturn]] void refuse_long(std::uint64_t bytes) {
    refuse("The manifest has " + std::to_string(bytes) + " bytes; a manifest must be small, at most " +
           std::to_string(MAX_MANIFEST_BYTES));
}

const json& at(const json& object, const char* name, json::value_t type) {
    const auto found = object.find(name);
    if (found == object.end() || found->type() != type) refuse_value(name, "is missing or of another type");
    return *found;
}

std::string text(const json& object, const char* name) { return at(object, name, json::value_t::string); }

std::string text_or_empty(const json& object, const char* name) {
    const auto found = object.find(name);
    return found != object.end() && found->is_string() ? found->get<std::string>() : std::string();
}

std::int64_t integer(const json& value, const char* name, std::int64_t least, std::int64_t most) {
    if (!value.is_number_integer()) refuse_value(name, "is no whole number");
    // Unsigned values above the signed range would turn negative.
    const bool fits =
        value.is_number_unsigned() ? value.get<std::uint64_t>() <= static_cast<std::uint64_t>(most) : true;
    if (!fits || value.get<std::int64_t>() < least || value.get<std::int64_t>() > most)
        refuse_value(name, "is " + value.dump() + ", not in " + std::to_string(least) + " to " + std::to_string(most));
    return value.get<std::int64_t>();
}

float number(const json& value, const char* name) {
    if (!value.is_number() || !std::isfinite(static_cast<float>(value.get<double>())))
        refuse_value(name, "is no finite number");
    return static_cast<float>(value.get<double>());
}

bool plain(const std::string& name) {
    return !name.empty() && name.size() < 200 && name != "." && name != ".." &&
           name.find_first_of(std::string_view("/\\:\0", 4)) == std::string::npos;
}

std::array<float, 3> channels(const json& image, const char* name) {
    const json& values = at(image, name, json::value_t::array);
    if (values.size() != 3) refuse_value(name, "does not have three channels");
    return {number(values[0], name), number(values[1], name), number(values[2], name)};
}

void read_model(const json& model, Bundle& bundle) {
    bundle.model = text(model, "name");
    std::set<std::string> names;
    for (const json& label : at(model, "labels", json::value_t::array)) {
        if (!label.is_string()) refuse_value("labels", "are not all names");
        if (!names.insert(label.get<std::string>()).second) refuse_value("labels", "have one name twice");
        bundle.labels.push_back(label.get<std::string>());
    }
    if (bundle.labels.empty() || bundle.labels.size() > MAX_CLASSES)
        refuse_value("labels",
                     "are " + std::to_string(bundle.labels.size()) + ", not 1 to " + std::to_string(MAX_CLASSES));
    for (const json& value : at(model, "thresholds", json::value_t::array))
        bundle.thresholds.push_back(number(value, "thresholds"));
    if (bundle.thresholds.empty()) bundle.thresholds.assign(bundle.labels.size(), 0.5f);
    if (bundle.thresholds.size() != bundle.labels.size())
        refuse_value("thresholds", "are " + std::to_string(bundle.thresholds.size()) + " for " +
                                       std::to_string(bundle.labels.size()) + " classes");
}

void read_image(const json& image, Bundle& bundle) {
    bundle.image.size = static_cast<int>(integer(image.value("size", json()), "size", 32, MAX_SIZE));
    if (bundle.image.size % 32) refuse_value("size", "is " + std::to_string(bundle.image.size) + ", no multiple of 32");
    bundle.image.mean = channels(image, "mean");
    bundle.image.std = channels(image, "std");
    for (const float value : bundle.image.std)
        if (!(value > 0)) refuse_value("std", "has " + std::to_string(value) + ", which is not above 0");
}

void read_target(const json& target, Bundle& bundle) {
    bundle.backend = text(target, "backend");
    bundle.precision = text(target, "precision");
    if (bundle.precision != "fp32" && bundle.precision != "fp16" && bundle.precision != "int8")
        refuse_value("precision", "is " + bundle.precision.substr(0, 40) + ", not fp32, fp16 or int8");
    for (const json& batch : at(target, "batches", json::value_t::array))
        bundle.batches.push_back(static_cast<std::size_t>(integer(batch, "batches", 1, MAX_BATCH)));
    if (bundle.batches.empty() || std::adjacent_find(bundle.batches.begin(), bundle.batches.end(),
                                                     std::greater_equal<>()) != bundle.batches.end())
        refuse_value("batches", "are not ascending");
    const auto float16 = target.find("float16");
    if (float16 != target.end() && !float16->is_null()) bundle.float16 = text(target, "float16");
}

void read_files(const json& manifest, Bundle& bundle) {
    for (const auto& [name, entry] : at(manifest, "files", json::value_t::object).items()) {
        if (!plain(name) || !entry.is_object()) refuse_value("files", "are not plain names with digests");
        const std::string sha256 = text(entry, "sha256");
        const std::int64_t bytes = integer(entry.value("bytes", json()), "bytes", 0, std::int64_t{1} << 50);
        bundle.files[name] = {sha256, static_cast<std::uint64_t>(bytes)};
    }
}

// A name that will be opened must be one whose digest is checked.
std::string listed(const json& object, const char* name, const Bundle& bundle) {
    const std::string file = text(object, name);
    if (!bundle.files.count(file)) refuse_value(name, "is not among the listed files");
    return file;
}

void read_engine(const json& engine, Bundle& bundle) {
    bundle.plan.payload = listed(engine, "payload", bundle);
    const auto plugin = engine.find("plugin");
    if (plugin != engine.end() && !plugin->is_null()) {
        if (!plugin->is_object()) refuse_value("plugin", "is of another type");
        bundle.plan.plugin = listed(*plugin, "file", bundle);
    }
    if (engine.contains("plan_bytes"))
        bundle.plan.bytes =
            static_cast<std::uint64_t>(integer(engine["plan_bytes"], "plan_bytes", 0, std::int64_t{1} << 40));
    for (const json& profile : engine.value("profiles", json::array())) {
        if (!profile.is_array() || profile.size() != 3) refuse_value("profiles", "do not have three batches each");
        std::array<int, 3> batches{};
        for (std::size_t i = 0; i < 3; ++i)
            batches[i] = static_cast<int>(integer(profile[i], "profiles", 1, MAX_BATCH));
        bundle.plan.profiles.push_back(batches);
    }
    const json machine = engine.value("machine", json::object());
    if (!machine.is_object()) refuse_value("machine", "is of another type");
    bundle.plan.version = text_or_empty(machine, "version");
    bundle.plan.compute_capability = text_or_empty(machine, "compute_capability");
}

// An open file or folder, closed when it goes.
class Descriptor {
  public:
    explicit Descriptor(int number) : number_(number) {}
    ~Descriptor() {
        if (number_ >= 0) close(number_);
    }
    Descriptor(const Descriptor&) = delete;
    Descriptor& operator=(const Descriptor&) = delete;
    operator int() const { return number_; }

  private:
    int number_;
};

class Sha256 {
  public:
    Sha256() : context_(EVP_MD_CTX_new(), EVP_MD_CTX_free) {
        check(context_ ? EVP_DigestInit_ex(context_.get(), EVP_sha256(), nullptr) : 0);
    }
    void add(const char* data, std::size_t bytes) { check(EVP_DigestUpdate(context_.get(), data, bytes)); }
    std::string hex() {
        std::array<unsigned char, EVP_MAX_MD_SIZE> raw{};
        unsigned length = 0;
        check(EVP_DigestFinal_ex(context_.get(), raw.data(), &length));
        std::string digits;
        for (unsigned i = 0; i < length; ++i) {
            digits += "0123456789abcdef"[raw[i] >> 4];
            digits += "0123456789abcdef"[raw[i] & 15];
        }
        return digits;
    }

  private:
    static void check(int done) {
        if (done != 1) refuse("libcrypto cannot compute SHA-256 here", "Reinstall libcrypto");
    }
    std::unique_ptr<EVP_MD_CTX, decltype(&EVP_MD_CTX_free)> context_;
};

// A bundle's folder, opened once: whatever its name leads to later, its files are read from this one.
class Folder {
  public:
    explicit Folder(const fs::path& path)
        : path_(path), folder_(open(path.c_str(), O_RDONLY | O_DIRECTORY | O_CLOEXEC)) {
        if (folder_ < 0) refuse("There is no bundle at " + path.string() + reason(errno), BUILD);
    }

    // Whether its name leads to another folder by now, or to nothing.
    bool replaced() const {
        struct stat opened{}, named{};
        if (fstat(folder_, &opened) != 0 || stat(path_.c_str(), &named) != 0) return true;
        return opened.st_dev != named.st_dev || opened.st_ino != named.st_ino;
    }

    std::string manifest() const {
        std::uint64_t bytes = 0;
        const Descriptor file(opened(NAME, bytes));
        if (file < 0) refuse(path_.string() + " is no bundle: " + NAME + " cannot be read" + reason(errno), BUILD);
        if (bytes > MAX_MANIFEST_BYTES) refuse_long(bytes);
        std::string text(bytes, '\0');
        take(file, text.data(), bytes, NAME);
        return text;
    }

    // A file that is as the manifest lists it, and its bytes if they are to be kept.
    Content checked(const std::string& name, const Bundle::File& listed, bool keep) const {
        std::uint64_t found = 0;
        const Descriptor file(opened(name, found));
        if (file < 0) refuse("There is no file " + of(name) + ", which the bundle lists" + reason(errno), COPY_AGAIN);
        if (found != listed.bytes) refuse_changed(name);
        const auto bytes = static_cast<std::size_t>(listed.bytes);
        Content content;
        std::vector<char> block(keep ? 0 : std::min(BLOCK, bytes));
        if (keep) {
            content = {{static_cast<char*>(std::aligned_alloc(PAGE, (bytes / PAGE + 1) * PAGE)), std::free}, bytes};
            if (!content.data) throw std::bad_alloc();
        }
        Sha256 digest;
        for (std::size_t at = 0; at < bytes; at += BLOCK) {
            const std::size_t step = std::min(BLOCK, bytes - at);
            char* to = keep ? content.data.get() + at : block.data();
            take(file, to, step, name);
            digest.add(to, step);
        }
        if (digest.hex() != listed.sha256) refuse_changed(name);
        return content;
    }

    std::vector<std::string> names() const {
        const int again = openat(folder_, ".", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
        const std::unique_ptr<DIR, Close> entries(again < 0 ? nullptr : fdopendir(again));
        if (!entries) refuse("Cannot read " + path_.string() + reason(errno), "Check its permissions");
        std::vector<std::string> names;
        while (const dirent* entry = readdir(entries.get())) names.emplace_back(entry->d_name);
        return names;
    }

    const fs::path& path() const { return path_; }

  private:
    static constexpr std::size_t BLOCK = 1 << 20;

    struct Close {
        void operator()(DIR* entries) const { closedir(entries); }
    };

    static std::string reason(int error) { return std::string(" (") + std::strerror(error) + ")"; }
    std::string of(const std::string& name) const { return (path_ / name).string(); }

    [[noreturn]] void refuse_changed(const std::string& name) const {
        refuse(of(name) + " was changed or truncated: its size and SHA-256 are not those in the manifest", COPY_AGAIN);
    }

    // Below 0 where it is missing, a link (which could point anywhere), or anything but a file.
    int opened(const std::string& name, std::uint64_t& bytes) const {
        // Without waiting for the other end of a pipe.
        const int file = openat(folder_, name.c_str(), O_RDONLY | O_NOFOLLOW | O_NONBLOCK | O_CLOEXEC);
        struct stat found{};
        if (file < 0 || (fstat(file, &found) == 0 && S_ISREG(found.st_mode))) {
            bytes = static_cast<std::uint64_t>(found.st_size);
            return file;
        }
        close(file);
        errno = EINVAL;
        return -1;
    }

    void take(const Descriptor& file, char* to, std::size_t bytes, const std::string& name) const {
        while (bytes > 0) {
            const ssize_t count = read(file, to, bytes);
            if (count < 0 && errno == EINTR) continue;
            if (count < 0) refuse("Cannot read " + of(name) + reason(errno), COPY_AGAIN);
            if (count == 0) refuse_changed(name);
            to += count, bytes -= static_cast<std::size_t>(count);
        }
    }

    const fs::path path_;
    const Descriptor folder_;
};

bool of_engine(const std::string& name) { return name.rfind("engine.", 0) == 0; }

std::pair<Bundle, Contents> read(const Folder& folder) {
    Bundle bundle = parse_manifest(folder.manifest(), folder.path());
    Contents contents;
    for (const auto& [name, listed] : bundle.files) {
        Content content = folder.checked(name, listed, of_engine(name));
        if (of_engine(name)) contents[name] = std::move(content);
    }
    // What stands beside the listed files belongs to another engine, or was slipped in.
    for (const std::string& name : folder.names())
        if (of_engine(name) && !bundle.files.count(name))
            refuse((folder.path() / name).string() + " is not listed in the manifest");
    return {std::move(bundle), std::move(contents)};
}

}  // namespace

Bundle parse_manifest(std::string_view text_, const fs::path& folder) {
    if (text_.size() > MAX_MANIFEST_BYTES) refuse_long(text_.size());
    json manifest;
    try {
        manifest = json::parse(text_, [](int depth, json::parse_event_t, const json&) {
            if (depth > MAX_DEPTH) refuse("The manifest nests more than " + std::to_string(MAX_DEPTH) + " values");
            return true;
        });
    } catch (const json::exception& error) {
        // The library's words quote the input; a number of the byte is enough.
        const auto* place = dynamic_cast<const json::parse_error*>(&error);
        refuse((folder / NAME).string() + " is not JSON" +
               (place ? ": broken at byte " + std::to_string(place->byte) : ""));
    }
    if (!manifest.is_object()) refuse((folder / NAME).string() + " is no JSON object");
    const auto schema = manifest.find("schema");
    if (schema == manifest.end() || !schema->is_number_integer() || *schema != SCHEMA)
        refuse((folder / NAME).string() + " has another schema; this version reads schema " + std::to_string(SCHEMA));
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

std::pair<Bundle, Contents> read_bundle(const fs::path& path) {
    for (int left = TRIES;; std::this_thread::sleep_for(PAUSE)) {
        bool again = --left > 0;  // also where there is no folder: it may be the moment between two renames
        try {
            const Folder folder(path);
            try {
                return read(folder);
            } catch (const Error&) {
                again = again && folder.replaced();
                throw;
            }
        } catch (const Error&) {
            if (!again) throw;
        }
    }
}

const Content& content_of(const Contents& contents, const std::string& name, const Bundle& bundle) {
    const auto found = contents.find(name);
    if (found == contents.end()) refuse("The engine of " + bundle.path.string() + " has no file " + name);
    return found->second;
}

}  // namespace edge
