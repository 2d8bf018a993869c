// OpenVINO on the CPU, compiled as edge/backends/openvino.py compiles it: same properties, same exact batches.
#include <algorithm>
#include <cstring>
#include <map>
#include <mutex>
#include <openvino/runtime/core.hpp>

#include "network.h"

namespace edge {
namespace {

std::string one_line(const std::string& text) {
    std::string line;
    for (const char each : text.substr(0, 300)) line += each == '\n' || each == '\r' ? ' ' : each;
    return line;
}

// A result of the model: which field of Outputs it fills.
struct Result {
    std::size_t index;
    std::vector<float> Outputs::* floats;  // null for region_classes
};

class OpenVino : public Network {
  public:
    explicit OpenVino(const Bundle& bundle) : bundle_(bundle) {
        check_fit();
        model_ = core_.read_model((bundle.path / "engine.xml").string());
        const auto& in = model_->inputs();
        const auto side = static_cast<std::int64_t>(bundle.image.size);
        if (in.size() != 1 || in[0].get_element_type() != ov::element::f32 ||
            !in[0].get_partial_shape().compatible({-1, 3, side, side}))
            refuse_form("another input");
        for (std::size_t i = 0; i < model_->outputs().size(); ++i) add_result(i);
        if (!form_.classes) refuse_form("no scores");
    }

    Form form() const override { return form_; }

    void run(const float* images, std::size_t count, std::size_t batch, Outputs& outputs) override {
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
            if (result.floats)
                copy(tensor.data<float>(), tensor.get_size(), count, batch, outputs.*result.floats);
            else
                copy(tensor.data<std::int64_t>(), tensor.get_size(), count, batch, outputs.region_classes);
        }
        const std::lock_guard<std::mutex> guard(lock_);
        idle_[batch].push_back(std::move(lane));
    }

  private:
    // An infer request, used by one thread at a time; as many are made as threads ever called at once.
    struct Lane {
        ov::InferRequest request;
        ov::Tensor padded;
    };

    [[noreturn]] void refuse_form(const std::string& got) const {
        throw Error("load", "the engine must have the form its manifest describes", got,
                    "scores of " + std::to_string(bundle_.labels.size()) + " classes", bundle_.rebuild());
    }

    template <typename T>
    void copy(const T* from, std::size_t size, std::size_t count, std::size_t batch, std::vector<T>& to) const {
        if (size != to.size() / count * batch) refuse_form("a result of another size");
        std::copy_n(from, to.size(), to.begin());
    }

    ov::Shape shape(std::size_t batch) const {
        const auto side = static_cast<std::size_t>(bundle_.image.size);
        return {batch, 3, side, side};
    }

    void check_fit() {
        const std::string version = ov::get_openvino_version().buildNumber;
        const auto major = [](const std::string& text) { return text.substr(0, text.find('.')); };
        if (!bundle_.runtime.empty() && major(bundle_.runtime) != major(version))
            throw Error("load", "the runtime's major version must be the one it was built with", version,
                        bundle_.runtime, bundle_.rebuild());
        const auto able = core_.get_property("CPU", ov::device::capabilities);
        const auto has = [&](const char* name) { return std::find(able.begin(), able.end(), name) != able.end(); };
        const std::string here = has("BF16") ? "bf16" : has("FP16") ? "fp16" : "none";
        if (!bundle_.float16.empty() && bundle_.float16 != here)
            throw Error("load", "the processor must compute in the bundle's 16-bit float", here, bundle_.float16,
                        bundle_.rebuild());
    }

    void add_result(std::size_t index) {
        static const std::map<std::string, std::vector<float> Outputs::*> FLOATS = {
            {"scores", &Outputs::scores},
            {"global_scores", &Outputs::global_scores},
            {"local_scores", &Outputs::local_scores},
            {"regions", &Outputs::regions}};
        const ov::Output<ov::Node> port = model_->output(index);
        const std::string name = port.get_any_name();
        const ov::PartialShape shape = port.get_partial_shape();
        const auto floats = FLOATS.find(name);
        const bool classes = name == "region_classes";
        if (floats == FLOATS.end() && !classes) return;
        const auto type = classes ? ov::element::i64 : ov::element::f32;
        const std::size_t rank = name == "regions" ? 3 : 2;
        if (port.get_element_type() != type || shape.rank() != static_cast<std::int64_t>(rank) || shape[1].is_dynamic())
            refuse_form("another type or shape of " + name);
        const auto wide = static_cast<std::size_t>(shape[1].get_length());
        if (rank == 3 || classes) {
            if (wide < 1 || (form_.regions && form_.regions != wide) || (rank == 3 && shape[2] != 4))
                refuse_form("another shape of " + name);
            form_.regions = wide;
        } else {
            if (wide != bundle_.labels.size()) refuse_form(std::to_string(wide) + " " + name);
            if (name == "scores") form_.classes = wide;
            form_.global_scores |= name == "global_scores";
            form_.local_scores |= name == "local_scores";
        }
        results_.push_back({index, classes ? nullptr : floats->second});
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
    Form form_;
    ov::Core core_;
    std::shared_ptr<ov::Model> model_;
    std::vector<Result> results_;
    std::mutex lock_;
    std::map<std::size_t, ov::CompiledModel> compiled_;
    std::map<std::size_t, std::vector<Lane>> idle_;
};

// OpenVINO's exceptions in our form.
class Guarded : public Network {
  public:
    explicit Guarded(const Bundle& bundle) {
        guarded(bundle, "load", [&] { inner_ = std::make_unique<OpenVino>(bundle); });
        fix_ = bundle.rebuild();
    }
    Form form() const override { return inner_->form(); }
    void run(const float* images, std::size_t count, std::size_t batch, Outputs& outputs) override {
        try {
            inner_->run(images, count, batch, outputs);
        } catch (const ov::Exception& error) {
            throw Error("infer", "openvino must run the engine", one_line(error.what()), "success", fix_);
        }
    }

  private:
    template <typename Work>
    static void guarded(const Bundle& bundle, const char* stage, Work work) {
        try {
            work();
        } catch (const ov::Exception& error) {
            throw Error(stage, "openvino must accept the engine", one_line(error.what()), "an engine it can read",
                        bundle.rebuild());
        }
    }
    std::unique_ptr<OpenVino> inner_;
    std::string fix_;
};

}  // namespace

std::unique_ptr<Network> open_openvino(const Bundle& bundle) { return std::make_unique<Guarded>(bundle); }

}  // namespace edge
