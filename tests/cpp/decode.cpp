// decode FILE…: what edge::decode makes of each, as a PPM to standard output; a line with the reason where it refuses.
#include <cstdio>
#include <edge/engine.hpp>

int main(int count, char** files) {
    for (int i = 1; i < count; ++i) {
        try {
            const edge::Image image = edge::decode(std::filesystem::path(files[i]));
            std::printf("P6 %d %d 255\n", image.width, image.height);
            std::fwrite(image.pixels.data(), 1, image.pixels.size(), stdout);
        } catch (const edge::Error& error) {
            std::printf("%s\n", error.what());
        }
    }
}
