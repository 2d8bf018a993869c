#include "orientation.h"

#include <cstring>

namespace edge {

int exif_orientation(const std::uint8_t* data, std::size_t bytes) {
    for (int i = 0; i < 2 && bytes >= 6 && std::memcmp(data, "Exif\0\0", 6) == 0; ++i) data += 6, bytes -= 6;
    if (bytes == 0) return NONE;
    if (bytes < 8) return 1;
    const bool little = data[0] == 'I' && data[1] == 'I';
    if (!little && !(data[0] == 'M' && data[1] == 'M')) return 1;
    if (!(data[2] == 42 && data[3] == 0) && !(data[2] == 0 && data[3] == 42)) return 1;
    const auto number = [&](std::size_t from, std::size_t count) {
        std::uint32_t value = 0;
        for (std::size_t i = 0; i < count; ++i) value = value << 8 | data[from + (little ? count - 1 - i : i)];
        return value;
    };
    constexpr std::uint8_t WIDTHS[] = {0, 1, 1, 2, 4, 8, 1, 1, 2, 4, 8, 4, 8, 4};  // of the TIFF types, from 0
    const std::size_t table = number(4, 4);
    if (table > bytes - 2) return NONE;
    const std::size_t entries = number(table, 2);
    std::uint64_t outside = 0;  // bytes of the values that do not fit into their entry
    for (std::size_t i = 0; i < entries && table + 2 + (i + 1) * 12 <= bytes; ++i) {
        const std::size_t entry = table + 2 + i * 12;
        const std::uint32_t type = number(entry + 2, 2);
        const std::uint64_t width = type < sizeof WIDTHS ? WIDTHS[type] : 0;
        const std::uint64_t size = width * number(entry + 4, 4);
        std::size_t value = entry + 8;
        if (size > 4) {
            value = number(entry + 8, 4);
            outside += size;
            if (outside > bytes) continue;
            if (value + size > bytes) return NONE;
        }
        if (size == 0 || number(entry, 2) != 0x0112) continue;
        const bool whole = type == 3 || type == 4 || type == 8 || type == 9 || type == 13;
        const std::uint32_t orientation = whole ? number(value, width) : 1;
        return orientation >= 1 && orientation <= 8 ? static_cast<int>(orientation) : 1;
    }
    return NONE;
}

int xmp_orientation(std::string_view packet) {
    constexpr std::string_view NAME = "tiff:Orientation";
    for (std::size_t at = packet.find(NAME); at != packet.npos; at = packet.find(NAME, at + 1)) {
        std::string_view rest = packet.substr(at + NAME.size());
        const std::size_t mark = rest.substr(0, 2) == "=\"" ? 2 : rest.substr(0, 1) == ">" ? 1 : 0;
        if (!mark || mark >= rest.size() || rest[mark] < '0' || rest[mark] > '9') continue;
        return rest[mark] >= '1' && rest[mark] <= '8' ? rest[mark] - '0' : 1;
    }
    return NONE;
}

int profile_orientation(std::string_view text, std::vector<std::uint8_t>& exif) {
    for (int line = 0; line < 3; ++line) {
        const std::size_t end = text.find('\n');
        if (end == text.npos) return NONE;
        text.remove_prefix(end + 1);
    }
    exif.clear();
    int high = -1;
    for (const char each : text) {
        if (each == '\n') continue;
        const std::size_t digit = std::string_view("0123456789abcdefABCDEF").find(each);
        if (digit == std::string_view::npos) return 1;
        const int value = static_cast<int>(digit < 16 ? digit : digit - 6);
        if (high >= 0) exif.push_back(static_cast<std::uint8_t>(high << 4 | value));
        high = high < 0 ? value : -1;
    }
    return high < 0 ? exif_orientation(exif.data(), exif.size()) : 1;
}

Image turned(Image image, int orientation) {
    if (orientation == NONE || orientation == 1) return image;
    const int w = image.width, h = image.height;
    const bool swapped = orientation >= 5;  // the sides
    Image out{swapped ? h : w, swapped ? w : h, std::vector<std::uint8_t>(image.pixels.size())};
    std::uint8_t* to = out.pixels.data();
    for (int y = 0; y < out.height; ++y)
        for (int x = 0; x < out.width; ++x, to += 3) {
            int from_x = swapped ? y : x, from_y = swapped ? x : y;
            if (orientation == 2 || orientation == 3 || orientation == 7 || orientation == 8) from_x = w - 1 - from_x;
            if (orientation == 3 || orientation == 4 || orientation == 6 || orientation == 7) from_y = h - 1 - from_y;
            std::memcpy(to,
                        image.pixels.data() + (static_cast<std::size_t>(from_y) * static_cast<std::size_t>(w) +
                                               static_cast<std::size_t>(from_x)) *
                                                  3,
                        3);
        }
    return out;
}

}  // namespace edge
