#include "bundle.h"

#include <dirent.h>
#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <chrono>
#include <cstdlib>
#include <cstring>
#include <new>
#include <thread>

#include "sha256.h"

namespace edge {
namespace {

namespace fs = std::filesystem;

constexpr std::uint64_t MAX_MANIFEST_BYTES = 16u << 20;
constexpr int TRIES = 5;  // while the folder's name is given to others
constexpr std::chrono::milliseconds PAUSE(10);
constexpr std::size_t PAGE = 4096;  // bytes, as a memory map is aligned
constexpr const char* BUILD = "Build one: python -m edge.build";
constexpr const char* COPY_AGAIN = "Copy the bundle again, or rebuild it: python -m edge.build --force";

[[noreturn]] void refuse(const std::string& problem, const std::string& fix = REBUILD) {
    throw Error("load", problem, fix);
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
        const Descriptor file(opened(MANIFEST, bytes));
        if (file < 0)
            refuse(path_.string() + " is not a bundle: " + MANIFEST + " cannot be read" + reason(errno), BUILD);
        if (bytes > MAX_MANIFEST_BYTES)
            refuse("The manifest has " + std::to_string(bytes) + " bytes; a manifest has at most " +
                   std::to_string(MAX_MANIFEST_BYTES));
        std::string text(bytes, '\0');
        take(file, text.data(), bytes, MANIFEST);
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
