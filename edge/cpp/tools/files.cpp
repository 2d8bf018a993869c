#include "files.h"

#include <fcntl.h>
#include <linux/fs.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <cerrno>
#include <cstring>
#include <fstream>
#include <nlohmann/json.hpp>
#include <system_error>
#include <vector>

#include "bundle.h"
#include "sha256.h"

namespace edge::tools {
namespace {

namespace fs = std::filesystem;

constexpr std::size_t BLOCK = 1 << 20;

[[noreturn]] void refuse_unwritable(const fs::path& path, int error) {
    if (error == ENOSPC || error == EDQUOT || error == EFBIG)
        throw Error("write", path.string() + " does not fit on the disk: " + std::strerror(error),
                    "Free some space, or choose another place");
    throw Error("write", "Cannot write " + path.string() + ": " + std::strerror(error), "Choose another place");
}

[[noreturn]] void refuse_unreadable(const fs::path& path, int error) {
    throw Error("load", "Cannot read " + path.string() + ": " + std::strerror(error), "Check its name and permissions");
}

// Every block of a file, in turn.
template <typename Take>
void read_blocks(const fs::path& file, Take take) {
    const int from = open(file.c_str(), O_RDONLY | O_CLOEXEC);
    if (from < 0) refuse_unreadable(file, errno);
    std::vector<char> block(BLOCK);
    ssize_t count = 0;
    try {
        while ((count = read(from, block.data(), BLOCK)) > 0) take(block.data(), static_cast<std::size_t>(count));
    } catch (...) {
        close(from);
        throw;
    }
    const int error = errno;
    close(from);
    if (count < 0) refuse_unreadable(file, error);
}

// A new file, or what is there emptied.
class Output {
  public:
    explicit Output(const fs::path& file)
        : path_(file), file_(open(file.c_str(), O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0666)) {
        if (file_ < 0) refuse_unwritable(file, errno);
    }
    ~Output() {
        if (file_ >= 0) close(file_);
    }
    void write(const char* data, std::size_t bytes) {
        while (bytes > 0) {
            const ssize_t count = ::write(file_, data, bytes);
            if (count < 0 && errno == EINTR) continue;
            if (count < 0) refuse_unwritable(path_, errno);
            data += count, bytes -= static_cast<std::size_t>(count);
        }
    }
    void finish() {
        const int file = std::exchange(file_, -1);
        if (close(file) != 0) refuse_unwritable(path_, errno);
    }

  private:
    const fs::path path_;
    int file_;
};

bool is_special(const fs::path& file) {
    std::error_code ignored;
    const fs::file_status found = fs::status(file, ignored);
    return fs::exists(found) && !fs::is_regular_file(found);
}

fs::path beside(const fs::path& target) {
    return target.parent_path() / ("." + target.filename().string() + ".partial-" + std::to_string(getpid()));
}

// Its full path, links followed, without a stroke at the end.
fs::path resolved(const fs::path& path) {
    std::error_code error;
    fs::path full = fs::weakly_canonical(fs::absolute(path), error);
    if (error) refuse_unwritable(path, error.value());
    return full.has_filename() ? full : full.parent_path();
}

bool is_free(const fs::path& path) {
    std::error_code error;
    if (!fs::exists(path, error)) return true;
    return fs::is_directory(path, error) && fs::is_empty(path, error) && !error;
}

bool is_ours(const fs::path& folder) {
    try {
        const auto manifest = nlohmann::json::parse(read_file(folder / MANIFEST, 16u << 20));
        const auto schema = manifest.value("schema", nlohmann::json());
        return schema.is_number_integer() && schema >= 1 && schema <= 2 &&
               manifest.value("files", nlohmann::json()).is_object();
    } catch (const std::exception&) {
        return false;
    }
}

}  // namespace

fs::path program_folder() {
    std::error_code ignored;
    return fs::read_symlink("/proc/self/exe", ignored).parent_path();
}

std::string read_file(const fs::path& file, std::uintmax_t most) {
    std::string text;
    read_blocks(file, [&](const char* data, std::size_t bytes) {
        if (text.size() + bytes > most) refuse_unreadable(file, EFBIG);
        text.append(data, bytes);
    });
    return text;
}

void write_file(const fs::path& file, std::string_view data) {
    const bool direct = is_special(file);
    const fs::path target = direct ? file : resolved(file), partial = direct ? file : beside(target);
    try {
        Output output(partial);
        output.write(data.data(), data.size());
        output.finish();
        if (!direct && rename(partial.c_str(), target.c_str()) != 0) refuse_unwritable(file, errno);
    } catch (...) {
        if (!direct) unlink(partial.c_str());
        throw;
    }
}

std::string copy_with_digest(const fs::path& from, const fs::path& to) {
    Sha256 digest;
    Output output(to);
    read_blocks(from, [&](const char* data, std::size_t bytes) {
        digest.add(data, bytes);
        output.write(data, bytes);
    });
    output.finish();
    return digest.hex();
}

std::string digest_file(const fs::path& file) {
    Sha256 digest;
    read_blocks(file, [&](const char* data, std::size_t bytes) { digest.add(data, bytes); });
    return digest.hex();
}

void check_writable(const fs::path& file) {
    std::error_code ignored;
    if (fs::is_directory(file, ignored)) refuse_unwritable(file, EISDIR);
    if (is_special(file)) {
        if (access(file.c_str(), W_OK) != 0) refuse_unwritable(file, errno);
        return;
    }
    const fs::path partial = beside(resolved(file));
    const int made = open(partial.c_str(), O_WRONLY | O_CREAT | O_CLOEXEC, 0666);
    if (made < 0) refuse_unwritable(file, errno);
    close(made);
    unlink(partial.c_str());
}

NewFolder::NewFolder(const fs::path& path, bool replace) : shown_(path), target_(resolved(path)), replace_(replace) {
    check();
    std::error_code error;
    fs::create_directories(target_.parent_path(), error);
    if (error) refuse_unwritable(shown_, error.value());
    const fs::path partial = beside(target_);
    if (mkdir(partial.c_str(), 0777) != 0) refuse_unwritable(shown_, errno);
    partial_ = partial;
}

NewFolder::~NewFolder() {
    std::error_code ignored;
    if (!partial_.empty()) fs::remove_all(partial_, ignored);
}

void NewFolder::check() const {
    if (is_free(target_)) return;
    if (!replace_)
        throw Error("build", shown_.string() + " exists already", "Add --force to replace it, or choose another OUT");
    if (!is_ours(target_))
        throw Error("build", shown_.string() + " is not a bundle made by edge.build, so it is not replaced",
                    "Choose another OUT");
}

void NewFolder::keep() {
    if (is_free(target_)) {
        if (rename(partial_.c_str(), target_.c_str()) != 0) refuse_unwritable(shown_, errno);
        partial_.clear();
        return;
    }
    check();
    // In one step, so that no moment is without either; the old one then lies under the partial name and goes with it.
    if (syscall(SYS_renameat2, AT_FDCWD, partial_.c_str(), AT_FDCWD, target_.c_str(), RENAME_EXCHANGE) == 0) return;
    const fs::path aside = partial_.string() + ".aside";
    if (rename(target_.c_str(), aside.c_str()) != 0) refuse_unwritable(shown_, errno);
    if (rename(partial_.c_str(), target_.c_str()) != 0) {
        const int error = errno;
        rename(aside.c_str(), target_.c_str());
        refuse_unwritable(shown_, error);
    }
    partial_ = aside;
}

}  // namespace edge::tools
