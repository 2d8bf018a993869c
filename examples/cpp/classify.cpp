// Photographs to labels and regions, as `python -m edge.predict --json` writes them:
//   classify BUNDLE IMAGE...
#include <edge/engine.hpp>
#include <iostream>
#include <nlohmann/json.hpp>

namespace {

nlohmann::ordered_json plain(const edge::Prediction& prediction) {
    nlohmann::ordered_json labels = nlohmann::json::array(), regions = nlohmann::json::array();
    for (const edge::Label& label : prediction.labels) labels.push_back({{"name", label.name}, {"score", label.score}});
    for (const edge::Region& region : prediction.regions)
        regions.push_back(
            {{"box", region.box}, {"label", region.label}, {"score", region.score}, {"looked", region.looked}});
    return {{"labels", labels}, {"regions", regions}};
}

int classify(int count, char** words) {
    const edge::Engine engine = edge::Engine::load(words[1]);
    nlohmann::ordered_json results = nlohmann::json::array();
    bool failed = false;
    for (int i = 2; i < count; ++i) {
        nlohmann::ordered_json result = {{"image", words[i]}};
        try {
            const edge::Image photo = edge::decode(words[i]);
            result.update(plain(engine.predict(std::vector<edge::View>{photo.view()}).front()));
        } catch (const edge::Error& error) {  // the others go on
            std::cerr << error.what() << '\n';
            result["error"] = error.what();
            failed = true;
        }
        results.push_back(result);
    }
    // A name that is no UTF-8 is shown with replacement characters instead of ending the program.
    std::cout << results.dump(1, ' ', true, nlohmann::json::error_handler_t::replace) << '\n';
    return failed;
}

}  // namespace

int main(int count, char** words) {
    if (count < 3) {
        std::cerr << "usage: classify BUNDLE IMAGE...\n";
        return 2;
    }
    try {
        return classify(count, words);
    } catch (const edge::Error& error) {
        std::cerr << error.what() << '\n';
        return 1;
    }
}
