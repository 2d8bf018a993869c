// OpenVINO on the CPU, compiled as edge/backends/openvino.py compiles it: same properties, same exact sizes.
#include <algorithm>
#include <cstring>
#include <map>
#include <mutex>
#include <openvino/runtime/core.hpp>

#include "runner.h"

namespace edge {
namespace {

constexpr const char* PAYLOAD = "engine.xml";
constexpr const char* WEIGHTS = "engine.bin";

// What OpenVINO throws, in our form: not only its own exceptions come out of it.
template <typename Work>
auto guarded(const char* stage, const char* problem, const Bundle& bundle, Work work) {
    try {
        return work();
    } catch (const Error&) {
        throw;
    } catch (const std::exception& error) {
        std::string words = std::string(error.what()).substr(0, 300);
        std::replace_if(words.begin(), words.end(), [](char each) { return each == '\n' || each == '\r'; }, ' ');
        throw Error(stage, std::string(problem) + ": " + words, bundle.rebuild());
    }
}

template <typename Work>
void run_guarded(const Bundle& bundle, Work work) {
    guarded("infer", "OpenVINO cannot run the engine", bundle, work);
}

// The name of an input or output behind the prefix of its stage; empty without a name of that stage. A reshape swapped
// with what followed it leaves a port with both their names: ours is among them.
std::string own_name(const ov::Output<ov::Node>& port, const std::string& prefix) {
    constexpr std::string_view OURS[] = {INPUT, BOXES, OWNER, REGION_SCORES};
    std::string name;
    for (const std::string& each : port.get_names()) {
        if (each.rfind(prefix, 0) != 0) continue;
        const std::string own = each.substr(prefix.size());
        const bool ours = find_field(own) || std::find(std::begin(OURS), std::end(OURS), own) != std::end(OURS);
        if (name.empty() || ours) name = own;
    }
    return name;
}

// What the stages of an engine share.
struct Opened {
    Opened(const Bundle& bundle_, const Content& weights_) : bundle(bundle_), weights(weights_) {}

    const Bundle bundle;
    const Content weights;  // the models, and what is compiled from them, refer to them
    ov::Core core;
    std::mutex compiling;
};

// A stage, compiled for each exact size when that is first asked for.
class Model {
  public:
    // An infer request, used by one thread at a time; as many are made as threads ever called at once.
    struct Lane {
        ov::InferRequest request;
        ov::Tensor padded;
    };

    Model(std::shared_ptr<Opened> opened, std::shared_ptr<ov::Model> model, const std::string& prefix)
        : opened_(std::move(opened)), model_(std::move(model)) {
        for (const auto& port : model_->inputs()) inputs_.push_back(add_form(port, prefix));
        for (const auto& port : model_->outputs()) outputs_.push_back(add_form(port, prefix));
    }

    const Bundle& bundle() const { return opened_->bundle; }
    const Forms& forms() const { return forms_; }
    const std::vector<std::string>& outputs() const { return outputs_; }

    // Its place among the inputs, which has been checked to be there.
    std::size_t input(const char* name) const {
        return static_cast<std::size_t>(std::find(inputs_.begin(), inputs_.end(), name) - inputs_.begin());
    }

    ov::Shape images(std::size_t count) const {
        const auto side = static_cast<std::size_t>(bundle().image.size);
        return bundle().image.uint8 ? ov::Shape{count, side, side, 3} : ov::Shape{count, 3, side, side};
    }

    ov::element::Type image_type() const { return bundle().image.uint8 ? ov::element::u8 : ov::element::f32; }

    Lane take(std::size_t size) {
        const std::lock_guard<std::mutex> guard(lock_);
        auto& idle = idle_[size];
        if (!idle.empty()) {
            Lane lane = std::move(idle.back());
            idle.pop_back();
            return lane;
        }
        auto compiled = compiled_.find(size);
        if (compiled == compiled_.end()) compiled = compiled_.emplace(size, compile(size)).first;
        return {compiled->second.create_infer_request(), {}};
    }

    void give_back(std::size_t size, Lane lane) {
        const std::lock_guard<std::mutex> guard(lock_);
        idle_[size].push_back(std::move(lane));
    }

    // Refuses a result that is not of this many values.
    void check_size(const ov::Tensor& result, std::size_t values, std::size_t size) const {
        if (result.get_size() != values)
            throw Error("infer", "The engine returned a result of the wrong size for " + std::to_string(size),
                        bundle().rebuild());
    }

  private:
    std::string add_form(const ov::Output<ov::Node>& port, const std::string& prefix) {
        const std::string name = own_name(port, prefix);
        Form& form = forms_[name];
        form.type = port.get_element_type().to_string();
        for (const ov::Dimension& size : port.get_partial_shape())
            form.shape.push_back(size.is_static() ? size.get_length() : -1);
        return name;
    }

    ov::CompiledModel compile(std::size_t size) const {
        const std::lock_guard<std::mutex> guard(opened_->compiling);
        const auto model = model_->clone();
        std::map<std::size_t, ov::PartialShape> shapes;
        for (std::size_t i = 0; i < inputs_.size(); ++i) {
            shapes[i] = model->input(i).get_partial_shape();
            // Of how many images the regions are is left open: only the crop reads them.
            const bool open = inputs_.size() > 1 && inputs_[i] == INPUT;
            shapes[i][0] = open ? ov::Dimension() : ov::Dimension(static_cast<std::int64_t>(size));
        }
        model->reshape(shapes);
        // With the precision hint unset, a CPU with bf16 runs the coordinates in bf16 too, and boxes move.
        const ov::AnyMap properties = {{"PERFORMANCE_HINT", "LATENCY"},
                                       {"INFERENCE_PRECISION_HINT", bundle().float16.empty() ? "f32" : "dynamic"},
                                       {"NUM_STREAMS", "1"}};
        return opened_->core.compile_model(model, "CPU", properties);
    }

    const std::shared_ptr<Opened> opened_;
    const std::shared_ptr<ov::Model> model_;
    Forms forms_;
    std::vector<std::string> inputs_, outputs_;  // in the model's order
    std::mutex lock_;
    std::map<std::size_t, ov::CompiledModel> compiled_;
    std::map<std::size_t, std::vector<Lane>> idle_;
};

// The tensor type has no const form; a request only reads its inputs.
template <typename T>
ov::Tensor wrapped(ov::element::Type type, const ov::Shape& shape, const T* values) {
    return ov::Tensor(type, shape, static_cast<void*>(const_cast<T*>(values)));
}

class OpenVino : public Runner {
  public:
    OpenVino(const std::shared_ptr<Opened>& opened, std::shared_ptr<ov::Model> model, const std::string& prefix)
        : model_(opened, std::move(model), prefix) {
        for (std::size_t i = 0; i < model_.outputs().size(); ++i)
            if (const Field* field = find_field(model_.outputs()[i]))
                results_.push_back({i, field, model_.forms().at(field->name).type == "i32"});
    }

    Forms forms() const override { return model_.forms(); }

    void run(Images& images, Outputs& outputs) override {
        run_guarded(model_.bundle(), [&] { infer(images.values, images.count, images.batch, outputs); });
    }

  private:
    // A result of the model.
    struct Result {
        std::size_t index;
        const Field* field;
        bool four_bytes;
    };

    void infer(const void* images, std::size_t count, std::size_t batch, Outputs& outputs) {
        Model::Lane lane = model_.take(batch);
        const ov::Shape shape = model_.images(batch);
        if (count == batch) {
            lane.request.set_input_tensor(wrapped(model_.image_type(), shape, images));
        } else {
            if (!lane.padded) lane.padded = ov::Tensor(model_.image_type(), shape);
            const std::size_t bytes = lane.padded.get_byte_size(), given = bytes / batch * count;
            auto* own = static_cast<std::uint8_t*>(lane.padded.data());
            std::memcpy(own, images, given);
            std::memset(own + given, 0, bytes - given);
            lane.request.set_input_tensor(lane.padded);
        }
        lane.request.infer();
        for (const Result& result : results_) {
            const ov::Tensor tensor = lane.request.get_output_tensor(result.index);
            model_.check_size(tensor, result.field->size(outputs) / count * batch, batch);
            result.field->copy(tensor.data(), result.four_bytes, outputs);
        }
        model_.give_back(batch, std::move(lane));
    }

    Model model_;
    std::vector<Result> results_;
};

class OpenVinoCloser : public Closer {
  public:
    OpenVinoCloser(const std::shared_ptr<Opened>& opened, std::shared_ptr<ov::Model> model, const std::string& prefix)
        : model_(opened, std::move(model), prefix) {}

    Forms forms() const override { return model_.forms(); }

    bool pads() const override { return false; }

    void run(const Images& images, const float* boxes, const std::int32_t* owner, std::size_t size,
             float* scores) override {
        run_guarded(model_.bundle(), [&] {
            Model::Lane lane = model_.take(size);
            const auto give = [&](const char* name, const ov::Tensor& tensor) {
                lane.request.set_input_tensor(model_.input(name), tensor);
            };
            give(INPUT, wrapped(model_.image_type(), model_.images(images.count), images.values));
            give(BOXES, wrapped(ov::element::f32, {size, 4}, boxes));
            give(OWNER, wrapped(ov::element::i32, {size}, owner));
            lane.request.infer();
            const ov::Tensor found = lane.request.get_output_tensor();
            model_.check_size(found, size * model_.bundle().labels.size(), size);
            std::copy_n(found.data<const float>(), found.get_size(), scores);
            model_.give_back(size, std::move(lane));
        });
    }

  private:
    Model model_;
};

void check_fit(const Bundle& bundle, const ov::Core& core) {
    const std::string version = ov::get_openvino_version().buildNumber;
    const auto major = [](const std::string& text) { return text.substr(0, text.find('.')); };
    if (!bundle.runtime.empty() && major(bundle.runtime) != major(version))
        throw Error("load", "The engine was built with openvino " + bundle.runtime + "; here is " + version,
                    bundle.rebuild());
    const auto able = core.get_property("CPU", ov::device::capabilities);
    const auto has = [&](const char* name) { return std::find(able.begin(), able.end(), name) != able.end(); };
    const std::string here = has("BF16") ? "bf16" : has("FP16") ? "fp16" : "no 16-bit float";
    if (!bundle.float16.empty() && bundle.float16 != here)
        throw Error("load", "The engine was built for " + bundle.float16 + "; this processor has " + here,
                    bundle.rebuild());
}

// The part of a model whose inputs and outputs are named after a stage.
std::shared_ptr<ov::Model> part(const ov::Model& whole, const std::string& prefix) {
    ov::ParameterVector parameters;
    ov::ResultVector results;
    for (const auto& each : whole.get_parameters())
        if (!own_name(each->output(0), prefix).empty()) parameters.push_back(each);
    for (const auto& each : whole.get_results())
        if (!own_name(each->output(0), prefix).empty()) results.push_back(each);
    return std::make_shared<ov::Model>(results, parameters, prefix);
}

Runners open(const Bundle& bundle, const Contents& contents) {
    const auto opened = std::make_shared<Opened>(bundle, content_of(contents, WEIGHTS, bundle));
    check_fit(bundle, opened->core);
    const Content& payload = content_of(contents, PAYLOAD, bundle);
    const Content& weights = opened->weights;
    // From memory, not from the files: those may be overwritten while the engine runs.
    const auto model = opened->core.read_model(std::string(payload.data.get(), payload.bytes),
                                               ov::Tensor(ov::element::u8, {weights.bytes}, weights.data.get()));
    const std::string look = std::string(LOOK) + "/", closer = std::string(CLOSER) + "/";
    ov::OutputVector ports = model->inputs();
    for (const auto& each : model->outputs()) ports.push_back(each);
    const auto of_none = [&](const ov::Output<ov::Node>& port) {
        return own_name(port, look).empty() && own_name(port, closer).empty();
    };
    const auto other = std::find_if(ports.begin(), ports.end(), of_none);
    if (std::all_of(ports.begin(), ports.end(), of_none))
        return {std::make_unique<OpenVino>(opened, model, ""), nullptr};
    if (other != ports.end()) refuse_form(bundle, "it has " + own_name(*other, "") + ", which is of no stage");
    return {std::make_unique<OpenVino>(opened, part(*model, look), look),
            std::make_unique<OpenVinoCloser>(opened, part(*model, closer), closer)};
}

}  // namespace

Runners open_openvino(const Bundle& bundle, const Contents& contents) {
    return guarded("load", "OpenVINO cannot read the engine", bundle, [&] { return open(bundle, contents); });
}

}  // namespace edge
