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

// Of one stage; its name leads those of its inputs and outputs, with a stroke. The first size of each shape is left
// open, or the only one that the engine runs for: of images, or of the regions in `sizes`.
void check_stage(const Bundle& bundle, const std::string& prefix, const Forms& found, const Forms& needed,
                 const Forms& allowed, const std::vector<std::size_t>& sizes) {
    for (const auto& [name, form] : needed)
        if (!found.count(name)) refuse_form(bundle, "it has no " + prefix + name);
    for (const auto& [name, form] : found) {
        const auto described = allowed.find(name);
        if (described == allowed.end())
            refuse_form(bundle, "it has " + (name.empty() ? "an output without a name" : prefix + name));
        const auto& [type, expected] = described->second;
        const auto& shape = form.shape;
        const auto& exact = name == INPUT ? bundle.batches : sizes;
        const bool fits = shape.size() == expected.size() &&
                          std::equal(shape.begin() + 1, shape.end(), expected.begin() + 1) &&
                          (shape[0] == -1 || (exact.size() == 1 && shape[0] == static_cast<std::int64_t>(exact[0])));
        if (!fits || (form.type != type && !(type == "i64" && form.type == "i32")))
            refuse_form(bundle, prefix + name + " is " + form.type + " " + words(shape) + " and not " + type + " " +
                                    words(expected));
    }
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

Layout check_forms(const Bundle& bundle, const Runners& found) {
    const bool staged = !bundle.sizes.empty();
    if (staged != (found.closer != nullptr))
        refuse_form(bundle, staged ? "it is one graph and not two stages" : "it is in two stages and not one graph");
    const Forms forms = found.first->forms();
    const auto classes = static_cast<std::int64_t>(bundle.labels.size()), side = std::int64_t{bundle.image.size};
    const auto boxes = forms.find("regions");
    const bool counted = boxes != forms.end() && boxes->second.shape.size() == 3;
    const std::int64_t regions = counted ? std::max<std::int64_t>(boxes->second.shape[1], 1) : 0;
    const Form image = bundle.image.uint8 ? Form{"u8", {-1, side, side, 3}} : Form{"f32", {-1, 3, side, side}},
               scores{"f32", {-1, classes}};
    const Forms places{{"regions", {"f32", {-1, regions, 4}}}, {"region_classes", {"i64", {-1, regions}}}};
    Forms needed{{INPUT, image}, {staged ? "global_scores" : "scores", scores}};
    if (staged || boxes != forms.end() || forms.count("region_classes")) needed.insert(places.begin(), places.end());
    Forms allowed = needed;
    if (!staged) allowed.insert({{"global_scores", scores}, {"local_scores", scores}});
    check_stage(bundle, staged ? std::string(LOOK) + "/" : "", forms, needed, allowed, bundle.batches);
    if (staged) {
        const Forms closer{{INPUT, image}, {BOXES, {"f32", {-1, 4}}}, {OWNER, {"i32", {-1}}}, {REGION_SCORES, scores}};
        check_stage(bundle, std::string(CLOSER) + "/", found.closer->forms(), closer, closer, bundle.sizes);
    }
    return {bundle.labels.size(), static_cast<std::size_t>(regions), staged || forms.count("global_scores") > 0,
            staged || forms.count("local_scores") > 0};
}

}  // namespace edge
