// Photographs to upright RGB, by the rules of edge/image.py. libjpeg and libpng report errors by longjmp: in the
// functions that call setjmp nothing with a destructor lives, buffers belong to the caller.
#include <cmath>
#include <csetjmp>
#include <cstdio>
#include <cstring>

// After <cstdio>, which libjpeg forgets.
#include <jpeglib.h>
#include <png.h>

#include "bundle.h"

namespace edge {
namespace {

constexpr std::uint64_t MAX_PIXELS = 1u << 27;  // as edge/image.py
constexpr std::uint64_t MAX_SIDE = 65535;
constexpr std::uint64_t MAX_FILE_BYTES = 512u << 20;
constexpr int MAX_SCANS = 100;  // of a progressive JPEG; each costs a pass over the whole picture

[[noreturn]] void refuse(const std::string& must, const std::string& got, const std::string& expected) {
    throw Error("image", must, got, expected, "Replace it");
}

// What a decoder leaves: an image, its orientation (1 to 8), or words. Of plain types but for `image`, which outlives
// every jump.
struct Decoded {
    Image image;
    int orientation = 1;
    char words[200] = "";
};

bool fits(std::uint64_t width, std::uint64_t height, Decoded& out) {
    if (width && height && width <= MAX_SIDE && height <= MAX_SIDE && width * height <= MAX_PIXELS) return true;
    std::snprintf(out.words, sizeof out.words, "%llux%llu pixels", static_cast<unsigned long long>(width),
                  static_cast<unsigned long long>(height));
    return false;
}

// The orientation in a TIFF header (Exif 2.3, section 4.6), 1 where there is none or the data is damaged.
int exif_orientation(const std::uint8_t* data, std::size_t bytes) {
    if (bytes < 8) return 1;
    const bool little = data[0] == 'I' && data[1] == 'I';
    if (!little && !(data[0] == 'M' && data[1] == 'M')) return 1;
    const auto number = [&](std::size_t from, std::size_t count) {
        std::uint32_t value = 0;
        for (std::size_t i = 0; i < count; ++i) value = value << 8 | data[from + (little ? count - 1 - i : i)];
        return value;
    };
    const std::size_t table = number(4, 4);
    if (table < 8 || table > bytes - 2) return 1;
    const std::size_t entries = number(table, 2);
    for (std::size_t i = 0; i < entries && table + 2 + (i + 1) * 12 <= bytes; ++i) {
        const std::size_t entry = table + 2 + i * 12;
        if (number(entry, 2) != 0x0112 || number(entry + 4, 4) != 1) continue;
        const std::uint32_t type = number(entry + 2, 2);
        const std::size_t width = type == 1 ? 1 : type == 3 ? 2 : type == 4 ? 4 : 0;
        const std::uint32_t value = width ? number(entry + 8, width) : 1;
        return value >= 1 && value <= 8 ? static_cast<int>(value) : 1;
    }
    return 1;
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

int marker_orientation(const jpeg_decompress_struct& info) {
    for (const jpeg_marker_struct* marker = info.marker_list; marker; marker = marker->next)
        if (marker->data_length > 6 && std::memcmp(marker->data, "Exif\0\0", 6) == 0)
            return exif_orientation(marker->data + 6, marker->data_length - 6);
    return 1;
}

// Adobe's inverted CMYK to RGB, as Pillow converts it.
void cmyk_row(const std::uint8_t* from, std::size_t width, std::uint8_t* to) {
    for (std::size_t x = 0; x < width; ++x, from += 4)
        for (int channel = 0; channel < 3; ++channel)
            *to++ = static_cast<std::uint8_t>(from[3] - by_255((255u - from[channel]) * from[3]));
}

// row: scratch for one row of four channels.
bool decode_jpeg(const std::uint8_t* data, std::size_t bytes, Decoded& out, std::vector<std::uint8_t>& row) {
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
    out.orientation = marker_orientation(info);
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
#ifdef PNG_eXIf_SUPPORTED
    png_uint_32 length = 0;
    png_bytep exif = nullptr;
    if (png_get_eXIf_1(png, info, &length, &exif)) out.orientation = exif_orientation(exif, length);
#endif
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
    png_destroy_read_struct(&png, &info, nullptr);
    return true;
}

// ----

// Upright: orientation 5 to 8 swaps the sides.
Image turned(Image image, int orientation) {
    if (orientation == 1) return image;
    const int w = image.width, h = image.height;
    const bool swapped = orientation >= 5;
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

Image decode_named(const std::uint8_t* data, std::size_t bytes, const std::string& name) {
    Decoded out;
    std::vector<std::uint8_t> rows;
    bool done = false;
    if (bytes > 3 && std::memcmp(data, "\xFF\xD8\xFF", 3) == 0) {
        done = decode_jpeg(data, bytes, out, rows);
    } else if (bytes > 8 && std::memcmp(data, "\x89PNG\r\n\x1A\n", 8) == 0) {
        std::vector<png_bytep> lines;
        PngSource source{data, bytes, 0, &out};
        done = decode_png(source, out, rows, lines);
    } else {
        std::snprintf(out.words, sizeof out.words, "another format");
    }
    if (!done)
        refuse("an image must be readable", name + ": " + (*out.words ? out.words : "damaged"),
               "a whole JPEG or PNG with sides up to " + std::to_string(MAX_SIDE) + " and at most " +
                   std::to_string(MAX_PIXELS) + " pixels");
    return turned(std::move(out.image), out.orientation);
}

}  // namespace

Image decode(const void* data, std::size_t bytes) {
    return decode_named(static_cast<const std::uint8_t*>(data), bytes, std::to_string(bytes) + " bytes");
}

Image decode(const std::filesystem::path& file) {
    const std::string data = read_file(file, MAX_FILE_BYTES, "image");
    return decode_named(reinterpret_cast<const std::uint8_t*>(data.data()), data.size(), file.string());
}

}  // namespace edge
