#include "runner.h"

#include <algorithm>

namespace edge {
namespace {

constexpr Field FIELDS[] = {{"scores", &Outputs::scores, false},
                            {"global_scores", &Outputs::global_scores, false},
                            {"local_scores", &Outputs::local_scores, false},
                            {"regions", &Outputs::regions, true},
                            {"region_classes", nullptr, true}};

std::string words(const std::vector<std::int64_t>& shape) {
    std::string line;
    for (const std::int64_t size : shape) line += (line.empty() ? "" : ", ") + (size < 0 ? "?" : std::to_string(size));
    return "(" + line + ")";
}

// expected: a shape whose first size, the batch, is left open.
void check_form(const Bundle& bundle, const std::string& name, const Form& form, const std::string& type,
                const std::vector<std::int64_t>& expected) {
    const auto& shape = form.shape;
    const bool sizes =
        shape.size() == expected.size() && std::equal(shape.begin() + 1, shape.end(), expected.begin() + 1);
    const bool batch = sizes && (shape[0] == -1 || (bundle.batches.size() == 1 &&
                                                    shape[0] == static_cast<std::int64_t>(bundle.batches.front())));
    if (!batch || (form.type != type && !(type == "i64" && form.type == "i32")))
        refuse_form(bundle,
                    name + " is " + form.type + " " + words(shape) + " and not " + type + " " + words(expected));
}

}  // namespace

void Field::copy(const void* from, bool four_bytes, Outputs& to) const {
    if (floats)
        std::copy_n(static_cast<const float*>(from), size(to), (to.*floats).begin());
    else if (four_bytes)
        std::copy_n(static_cast<const std::int32_t*>(from), size(to), to.region_classes.begin());
    else
        std::copy_n(static_cast<const std::int64_t*>(from), size(to), to.region_classes.begin());
}

const Field* find_field(const std::string& name) {
    const auto found =
        std::find_if(std::begin(FIELDS), std::end(FIELDS), [&](const Field& each) { return name == each.name; });
    return found == std::end(FIELDS) ? nullptr : found;
}

void refuse_form(const Bundle& bundle, const std::string& found) {
    throw Error("load", "The engine of " + bundle.path.string() + " is not what its manifest describes: " + found,
                bundle.rebuild());
}

Layout check_forms(const Bundle& bundle, const Forms& found) {
    if (!found.count(INPUT)) refuse_form(bundle, "it has no " + std::string(INPUT));
    const auto classes = static_cast<std::int64_t>(bundle.labels.size()), side = std::int64_t{bundle.image.size};
    const auto boxes = found.find("regions");
    const bool counted = boxes != found.end() && boxes->second.shape.size() == 3;
    const std::int64_t regions = counted ? std::max<std::int64_t>(boxes->second.shape[1], 1) : 0;
    for (const auto& [name, form] : found) {
        const Field* field = find_field(name);
        if (name == INPUT)
            check_form(bundle, name, form, "f32", {-1, 3, side, side});
        else if (!field)
            refuse_form(bundle, "it has " + (name.empty() ? "an output without a name" : name));
        else if (!field->floats)
            check_form(bundle, name, form, "i64", {-1, regions});
        else if (field->of_regions)
            check_form(bundle, name, form, "f32", {-1, regions, 4});
        else
            check_form(bundle, name, form, "f32", {-1, classes});
    }
    if (!found.count("scores")) refuse_form(bundle, "it has no scores");
    if (found.count("regions") != found.count("region_classes"))
        refuse_form(bundle, "it has one of regions and region_classes");
    return {bundle.labels.size(), static_cast<std::size_t>(regions), found.count("global_scores") > 0,
            found.count("local_scores") > 0};
}

}  // namespace edge
