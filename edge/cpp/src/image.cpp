// Photographs to upright RGB, by the rules of edge/image.py. libjpeg and libpng report errors by longjmp: in the
// functions that call setjmp nothing with a destructor lives, buffers belong to the caller.
#include <algorithm>
#include <cmath>
#include <csetjmp>
#include <cstdio>
#include <cstring>
#include <fstream>
#include <string_view>

// After <cstdio>, which libjpeg forgets.
#include <jpeglib.h>
#include <png.h>

#include "approximate.h"
#include "orientation.h"

namespace edge {
namespace {

constexpr std::uint64_t MAX_PIXELS = 1u << 27;  // as edge/image.py
constexpr std::uint64_t MAX_SIDE = 65535;
constexpr std::uint64_t MAX_FILE_BYTES = 512u << 20;
constexpr int MAX_SCANS = 100;  // of a progressive JPEG; each costs a pass over the whole picture

[[noreturn]] void refuse(const std::string& problem, const std::string& fix) { throw Error("image", problem, fix); }

// What a decoder leaves: an image, its orientation (1 to 8), or words. Of plain types but for `image`, which outlives
// every jump.
struct Decoded {
    Image image;
    int width = 0, height = 0;  // of the whole picture, as it is stored
    int orientation = 1;
    char words[200] = "";
};

bool fits(std::uint64_t width, std::uint64_t height, Decoded& out) {
    if (width && height && width <= MAX_SIDE && height <= MAX_SIDE && width * height <= MAX_PIXELS) return true;
    std::snprintf(out.words, sizeof out.words, "%llu×%llu pixels, and allowed are %llu with sides up to %llu",
                  static_cast<unsigned long long>(width), static_cast<unsigned long long>(height),
                  static_cast<unsigned long long>(MAX_PIXELS), static_cast<unsigned long long>(MAX_SIDE));
    return false;
}

// Division by 255, rounded, of a value below 2^16.
unsigned by_255(unsigned value) { return (value + 128 + ((value + 128) >> 8)) >> 8; }

// ---- JPEG

struct JpegErrors {
    jpeg_error_mgr base;
    std::jmp_buf jump;
    Decoded* out;
};

void jpeg_fail(j_common_ptr info) {
    auto* errors = reinterpret_cast<JpegErrors*>(info->err);
    char message[JMSG_LENGTH_MAX];
    errors->base.format_message(info, message);
    std::snprintf(errors->out->words, sizeof errors->out->words, "%.150s", message);
    std::longjmp(errors->jump, 1);
}

void jpeg_message(j_common_ptr info, int level) {
    // A file that ends early gets grey below; Pillow refuses it too.
    if (level < 0 && std::strncmp(info->err->jpeg_message_table[info->err->msg_code], "Premature end of JPEG", 21) == 0)
        jpeg_fail(info);
}

void jpeg_progress(j_common_ptr info) {
    auto* decoder = reinterpret_cast<j_decompress_ptr>(info);
    if (info->is_decompressor && decoder->input_scan_number > MAX_SCANS) {
        auto* errors = reinterpret_cast<JpegErrors*>(info->err);
        std::snprintf(errors->out->words, sizeof errors->out->words, "more than %d scans", MAX_SCANS);
        std::longjmp(errors->jump, 1);
    }
}

// Exif goes before XMP. exif: scratch; several Exif markers are one that was too long.
int marker_orientation(const jpeg_decompress_struct& info, std::vector<std::uint8_t>& exif) {
    constexpr std::string_view EXIF("Exif\0\0", 6), XMP("http://ns.adobe.com/xap/1.0/\0", 29);
    std::string_view packet;
    exif.clear();
    for (const jpeg_marker_struct* marker = info.marker_list; marker; marker = marker->next) {
        const std::string_view data(reinterpret_cast<const char*>(marker->data), marker->data_length);
        if (data.substr(0, EXIF.size()) == EXIF)
            exif.insert(exif.end(), marker->data + (exif.empty() ? 0 : EXIF.size()), marker->data + data.size());
        else if (data.substr(0, XMP.size()) == XMP)
            packet = data.substr(XMP.size());
    }
    const int orientation = exif_orientation(exif.data(), exif.size());
    return orientation != NONE ? orientation : xmp_orientation(packet);
}

// Adobe's inverted CMYK to RGB, as Pillow converts it.
void cmyk_row(const std::uint8_t* from, std::size_t width, std::uint8_t* to) {
    for (std::size_t x = 0; x < width; ++x, from += 4)
        for (int channel = 0; channel < 3; ++channel)
            *to++ = static_cast<std::uint8_t>(from[3] - by_255((255u - from[channel]) * from[3]));
}

// side: as in decode_photo. row: scratch, such as for one row of four channels.
bool decode_jpeg(const std::uint8_t* data, std::size_t bytes, int side, Decoded& out, std::vector<std::uint8_t>& row) {
    jpeg_decompress_struct info{};
    jpeg_progress_mgr progress{};
    JpegErrors errors{};
    errors.out = &out;
    info.err = jpeg_std_error(&errors.base);
    errors.base.error_exit = jpeg_fail;
    errors.base.emit_message = jpeg_message;
    if (setjmp(errors.jump)) {
        jpeg_destroy_decompress(&info);
        return false;
    }
    jpeg_create_decompress(&info);
    progress.progress_monitor = jpeg_progress;
    info.progress = &progress;
    jpeg_mem_src(&info, data, static_cast<unsigned long>(bytes));
    jpeg_save_markers(&info, JPEG_APP0 + 1, 0xFFFF);
    jpeg_read_header(&info, TRUE);
    const bool cmyk = info.num_components == 4;
    if (!fits(info.image_width, info.image_height, out) || info.num_components == 2) {
        jpeg_destroy_decompress(&info);
        return false;
    }
    out.orientation = marker_orientation(info, row);
    out.width = static_cast<int>(info.image_width), out.height = static_cast<int>(info.image_height);
    if (side > 0)
        for (const int scale : {8, 4, 2})
            if (info.scale_denom == 1 && std::min(out.width, out.height) / (GAP * side) >= scale)
                info.scale_denom = static_cast<unsigned>(scale);
    info.out_color_space = cmyk ? JCS_CMYK : JCS_RGB;
    jpeg_start_decompress(&info);
    const std::size_t stride = std::size_t{info.output_width} * 3;
    out.image.width = static_cast<int>(info.output_width);
    out.image.height = static_cast<int>(info.output_height);
    out.image.pixels.resize(stride * info.output_height);
    if (cmyk) row.resize(std::size_t{info.output_width} * 4);
    while (info.output_scanline < info.output_height) {
        std::uint8_t* line = out.image.pixels.data() + info.output_scanline * stride;
        JSAMPROW target = cmyk ? row.data() : line;
        jpeg_read_scanlines(&info, &target, 1);
        if (cmyk) cmyk_row(row.data(), info.output_width, line);
    }
    jpeg_destroy_decompress(&info);
    return true;
}

// ---- PNG

struct PngSource {
    const std::uint8_t* data;
    std::size_t bytes, at;
    Decoded* out;
};

void png_take(png_structp png, png_bytep to, std::size_t count) {
    auto* source = static_cast<PngSource*>(png_get_io_ptr(png));
    if (count > source->bytes - source->at) png_error(png, "truncated");
    std::memcpy(to, source->data + source->at, count);
    source->at += count;
}

void png_fail(png_structp png, png_const_charp message) {
    auto* out = static_cast<Decoded*>(png_get_error_ptr(png));
    std::snprintf(out->words, sizeof out->words, "%.150s", message);
    png_longjmp(png, 1);
}

void png_ignore(png_structp, png_const_charp) {}

// A row as libpng gives it to RGB: 16-bit grey scaled, transparency over white (as Pillow: 7 bits more than a byte).
void png_row(const std::uint8_t* from, std::size_t width, int channels, bool deep, std::uint8_t* to) {
    if (!deep && channels == 3) {
        std::memcpy(to, from, width * 3);
        return;
    }
    for (std::size_t x = 0; x < width; ++x, to += 3) {
        if (deep) {
            to[0] = to[1] = to[2] =
                static_cast<std::uint8_t>(std::lround((from[2 * x] << 8 | from[2 * x + 1]) / 257.0));
            continue;
        }
        const std::uint8_t* pixel = from + 4 * x;
        for (int channel = 0; channel < 3; ++channel) {
            const unsigned sum = 128 * (pixel[channel] * pixel[3] + 255u * (255u - pixel[3])) + (128u << 7);
            to[channel] = static_cast<std::uint8_t>(((sum >> 8) + sum) >> 15);
        }
    }
}

// The chunks behind the pixels. What is damaged there is no reason to refuse the picture.
void png_finish(png_structp png, png_infop info) {
    if (!setjmp(png_jmpbuf(png))) png_read_end(png, info);
}

// Exif goes before XMP. exif: scratch.
int chunk_orientation(png_structp png, png_infop info, std::vector<std::uint8_t>& exif) {
    int orientation = NONE;
    bool found = false;
#ifdef PNG_eXIf_SUPPORTED
    png_uint_32 length = 0;
    png_bytep data = nullptr;
    found = png_get_eXIf_1(png, info, &length, &data) != 0;
    if (found) orientation = exif_orientation(data, length);
#endif
#ifdef PNG_TEXT_SUPPORTED
    png_textp texts = nullptr;
    int count = 0;
    png_get_text(png, info, &texts, &count);
    std::string_view packet, profile;
    for (int i = 0; i < count; ++i) {
        const bool international = texts[i].compression >= PNG_ITXT_COMPRESSION_NONE;
        const std::string_view key(texts[i].key);
        const std::string_view text(texts[i].text, international ? texts[i].itxt_length : texts[i].text_length);
        if (key == "XML:com.adobe.xmp") packet = text;
        if (key == "Raw profile type exif") profile = text;
    }
    if (!found && !profile.empty()) orientation = profile_orientation(profile, exif);
    if (orientation == NONE) orientation = xmp_orientation(packet);
#endif
    return orientation;
}

// rows: scratch, one row, or all of an interlaced picture; lines: where its rows begin.
bool decode_png(PngSource& source, Decoded& out, std::vector<std::uint8_t>& rows, std::vector<png_bytep>& lines) {
    png_structp png = png_create_read_struct(PNG_LIBPNG_VER_STRING, &out, png_fail, png_ignore);
    png_infop info = png ? png_create_info_struct(png) : nullptr;
    if (!info || setjmp(png_jmpbuf(png))) {
        png_destroy_read_struct(&png, &info, nullptr);
        return false;
    }
    png_set_read_fn(png, &source, png_take);
    png_set_user_limits(png, MAX_SIDE, MAX_SIDE);
    png_set_chunk_malloc_max(png, 8u << 20);
    png_set_chunk_cache_max(png, 128);
    png_read_info(png, info);
    const png_uint_32 width = png_get_image_width(png, info), height = png_get_image_height(png, info);
    if (!fits(width, height, out)) png_error(png, out.words);
    const bool deep = png_get_color_type(png, info) == PNG_COLOR_TYPE_GRAY && png_get_bit_depth(png, info) == 16;
    if (!deep) {
        png_set_expand(png);
        png_set_strip_16(png);
        png_set_gray_to_rgb(png);
    }
    const int passes = png_set_interlace_handling(png);
    png_read_update_info(png, info);
    const std::size_t stride = png_get_rowbytes(png, info);
    const int channels = png_get_channels(png, info);
    out.image.width = static_cast<int>(width);
    out.image.height = static_cast<int>(height);
    out.width = out.image.width, out.height = out.image.height;
    out.image.pixels.resize(std::size_t{width} * height * 3);
    rows.resize(stride * (passes > 1 ? height : 1));
    if (passes > 1) {
        for (png_uint_32 y = 0; y < height; ++y) lines.push_back(rows.data() + y * stride);
        png_read_image(png, lines.data());
    }
    for (png_uint_32 y = 0; y < height; ++y) {
        if (passes == 1) png_read_row(png, rows.data(), nullptr);
        const std::uint8_t* row = rows.data() + (passes > 1 ? y * stride : 0);
        png_row(row, width, channels, deep, out.image.pixels.data() + std::size_t{y} * width * 3);
    }
    png_finish(png, info);
    out.orientation = chunk_orientation(png, info, rows);
    png_destroy_read_struct(&png, &info, nullptr);
    return true;
}

// ----

Photo decode_named(const std::uint8_t* data, std::size_t bytes, const std::string& name, int side) {
    Decoded out;
    std::vector<std::uint8_t> rows;
    bool done = false;
    if (bytes > 3 && std::memcmp(data, "\xFF\xD8\xFF", 3) == 0) {
        done = decode_jpeg(data, bytes, side, out, rows);
    } else if (bytes > 8 && std::memcmp(data, "\x89PNG\r\n\x1A\n", 8) == 0) {
        std::vector<png_bytep> lines;
        PngSource source{data, bytes, 0, &out};
        done = decode_png(source, out, rows, lines);
    } else {
        std::snprintf(out.words, sizeof out.words, "not a JPEG or PNG");
    }
    if (!done)
        refuse("Cannot read " + name + ": " + (*out.words ? out.words : "damaged"), "Use a complete JPEG or PNG");
    const bool swapped = out.orientation >= 5;  // the sides
    Photo photo{turned(std::move(out.image), out.orientation), out.width, out.height};
    if (swapped) std::swap(photo.width, photo.height);
    return photo;
}

}  // namespace

Image decode(const void* data, std::size_t bytes) {
    return decode_named(static_cast<const std::uint8_t*>(data), bytes, std::to_string(bytes) + " bytes", 0).image;
}

Image decode(const std::filesystem::path& file) { return decode_photo(file, 0).image; }

Photo decode_photo(const std::filesystem::path& file, int side) {
    std::error_code error;
    if (!std::filesystem::is_regular_file(file, error)) refuse("There is no file " + file.string(), "Check the path");
    const std::uint64_t bytes = std::filesystem::file_size(file, error);
    if (error || bytes > MAX_FILE_BYTES)
        refuse(file.string() + " has more than the " + std::to_string(MAX_FILE_BYTES) + " bytes allowed",
               "Use a smaller file");
    std::string data(bytes, '\0');
    std::ifstream stream(file, std::ios::binary);
    stream.read(data.data(), static_cast<std::streamsize>(bytes));
    if (static_cast<std::uint64_t>(stream.gcount()) != bytes)
        refuse("Cannot read " + file.string(), "Check its permissions");
    return decode_named(reinterpret_cast<const std::uint8_t*>(data.data()), data.size(), file.string(), side);
}

}  // namespace edge
