// Files and folders that appear under their name only when they are complete; as edge/atomic.py.
#pragma once

#include <filesystem>
#include <string>
#include <string_view>

namespace edge::tools {

// Where this program lies.
std::filesystem::path program_folder();

// At most so many bytes; refused where it cannot be read or has more.
std::string read_file(const std::filesystem::path& file, std::uintmax_t most);

// Refused where it cannot be written. To a device or a pipe it is just written.
void write_file(const std::filesystem::path& file, std::string_view data);

// Copies, and gives back the SHA-256 of what was copied.
std::string copy_with_digest(const std::filesystem::path& from, const std::filesystem::path& to);

std::string digest_file(const std::filesystem::path& file);

// A file that is to be written at the end, tried first: nobody waits for a result that has no place.
void check_writable(const std::filesystem::path& file);

// A folder beside its final name, which it takes by `keep`; else it goes with this object.
class NewFolder {
  public:
    // Refuses a name that is taken, unless `replace` and what is there is a bundle of ours.
    NewFolder(const std::filesystem::path& path, bool replace);
    ~NewFolder();
    NewFolder(const NewFolder&) = delete;
    NewFolder& operator=(const NewFolder&) = delete;

    const std::filesystem::path& path() const { return partial_; }
    void keep();

  private:
    void check() const;

    const std::filesystem::path shown_;  // as the caller named it
    std::filesystem::path target_, partial_;
    const bool replace_;
};

}  // namespace edge::tools
