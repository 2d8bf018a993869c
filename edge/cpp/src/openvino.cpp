// OpenVINO on the CPU, compiled as edge/backends/openvino.py compiles it: same properties, same exact batches.
#include <algorithm>
#include <cstring>
#include <map>
#include <mutex>
#include <openvino/runtime/core.hpp>

#include "runner.h"

namespace edge {
namespace {

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

constexpr const char* PAYLOAD = "engine.xml";
constexpr const char* WEIGHTS = "engine.bin";

// A result of the model.
struct Result {
    std::size_t index;
    const Field* field;
    bool four_bytes;
};

class OpenVino : public Runner {
  public:
    OpenVino(const Bundle& bundle, const Contents& contents)
        : bundle_(bundle), weights_(content_of(contents, WEIGHTS, bundle)) {
        check_fit();
        const Content& payload = content_of(contents, PAYLOAD, bundle);
        // From memory, not from the files: those may be overwritten while the engine runs.
        model_ = core_.read_model(std::string(payload.data.get(), payload.bytes),
                                  ov::Tensor(ov::element::u8, {weights_.bytes}, weights_.data.get()));
        for (const auto& port : model_->inputs()) add_form(port);
        for (std::size_t i = 0; i < model_->outputs().size(); ++i) {
            const ov::Output<ov::Node> port = model_->output(i);
            if (const Field* field = find_field(add_form(port)))
                results_.push_back({i, field, port.get_element_type() == ov::element::i32});
        }
    }

    Forms forms() const override { return forms_; }

    void run(const float* images, std::size_t count, std::size_t batch, Outputs& outputs) override {
        guarded("infer", "OpenVINO cannot run the engine", bundle_, [&] { infer(images, count, batch, outputs); });
    }

  private:
    // An infer request, used by one thread at a time; as many are made as threads ever called at once.
    struct Lane {
        ov::InferRequest request;
        ov::Tensor padded;
    };

    void infer(const float* images, std::size_t count, std::size_t batch, Outputs& outputs) {
        Lane lane = take(batch);
        const std::size_t pixels =
            3 * static_cast<std::size_t>(bundle_.image.size) * static_cast<std::size_t>(bundle_.image.size);
        if (count == batch) {
            // The request only reads its input; the tensor type has no const form.
            lane.request.set_input_tensor(ov::Tensor(ov::element::f32, shape(batch), const_cast<float*>(images)));
        } else {
            if (!lane.padded) lane.padded = ov::Tensor(ov::element::f32, shape(batch));
            float* own = lane.padded.data<float>();
            std::fill(std::copy_n(images, count * pixels, own), own + batch * pixels, 0.0f);
            lane.request.set_input_tensor(lane.padded);
        }
        lane.request.infer();
        for (const Result& result : results_) {
            const ov::Tensor tensor = lane.request.get_output_tensor(result.index);
            const std::size_t kept = result.field->size(outputs);
            if (tensor.get_size() != kept / count * batch)
                throw Error("infer",
                            "The engine gave a result of another size than for " + std::to_string(batch) + " images",
                            bundle_.rebuild());
            result.field->copy(tensor.data(), result.four_bytes, outputs);
        }
        const std::lock_guard<std::mutex> guard(lock_);
        idle_[batch].push_back(std::move(lane));
    }

    ov::Shape shape(std::size_t batch) const {
        const auto side = static_cast<std::size_t>(bundle_.image.size);
        return {batch, 3, side, side};
    }

    void check_fit() {
        const std::string version = ov::get_openvino_version().buildNumber;
        const auto major = [](const std::string& text) { return text.substr(0, text.find('.')); };
        if (!bundle_.runtime.empty() && major(bundle_.runtime) != major(version))
            throw Error("load", "The engine was built with openvino " + bundle_.runtime + "; here is " + version,
                        bundle_.rebuild());
        const auto able = core_.get_property("CPU", ov::device::capabilities);
        const auto has = [&](const char* name) { return std::find(able.begin(), able.end(), name) != able.end(); };
        const std::string here = has("BF16") ? "bf16" : has("FP16") ? "fp16" : "no 16-bit float";
        if (!bundle_.float16.empty() && bundle_.float16 != here)
            throw Error("load", "The engine was built for " + bundle_.float16 + "; this processor has " + here,
                        bundle_.rebuild());
    }

    // Gives its name. A reshape swapped with what followed it leaves a port with both their names: ours is among them.
    std::string add_form(const ov::Output<ov::Node>& port) {
        std::string name;
        for (const std::string& each : port.get_names())
            if (name.empty() || each == INPUT || find_field(each)) name = each;
        Form& form = forms_[name];
        form.type = port.get_element_type().to_string();
        for (const ov::Dimension& size : port.get_partial_shape())
            form.shape.push_back(size.is_static() ? size.get_length() : -1);
        return name;
    }

    Lane take(std::size_t batch) {
        const std::lock_guard<std::mutex> guard(lock_);
        auto& idle = idle_[batch];
        if (!idle.empty()) {
            Lane lane = std::move(idle.back());
            idle.pop_back();
            return lane;
        }
        auto compiled = compiled_.find(batch);
        if (compiled == compiled_.end()) {
            const auto model = model_->clone();
            model->reshape(ov::PartialShape(shape(batch)));
            // With the precision hint unset, a CPU with bf16 runs the coordinates in bf16 too, and boxes move.
            const ov::AnyMap properties = {{"PERFORMANCE_HINT", "LATENCY"},
                                           {"INFERENCE_PRECISION_HINT", bundle_.float16.empty() ? "f32" : "dynamic"},
                                           {"NUM_STREAMS", "1"}};
            compiled = compiled_.emplace(batch, core_.compile_model(model, "CPU", properties)).first;
        }
        return {compiled->second.create_infer_request(), {}};
    }

    const Bundle bundle_;
    const Content weights_;  // the model, and what is compiled from it, refer to them
    Forms forms_;
    ov::Core core_;
    std::shared_ptr<ov::Model> model_;
    std::vector<Result> results_;
    std::mutex lock_;
    std::map<std::size_t, ov::CompiledModel> compiled_;
    std::map<std::size_t, std::vector<Lane>> idle_;
};

}  // namespace

std::unique_ptr<Runner> open_openvino(const Bundle& bundle, const Contents& contents) {
    return guarded("load", "OpenVINO cannot read the engine", bundle,
                   [&] { return std::make_unique<OpenVino>(bundle, contents); });
}

}  // namespace edge
