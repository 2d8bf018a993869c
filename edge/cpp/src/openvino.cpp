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

constexpr const char* PAYLOAD = "engine.xml";
constexpr const char* WEIGHTS = "engine.bin";
constexpr const char* INPUT = "image";

// An output of every graph: which field of Outputs it fills, and its rank.
struct Field {
    const char* name;
    std::vector<float> Outputs::* floats;  // null for region_classes
    std::int64_t rank;
};
constexpr Field FIELDS[] = {{"scores", &Outputs::scores, 2},
                            {"global_scores", &Outputs::global_scores, 2},
                            {"local_scores", &Outputs::local_scores, 2},
                            {"regions", &Outputs::regions, 3},
                            {"region_classes", nullptr, 2}};

// A result of the model.
struct Result {
    std::size_t index;
    const Field* field;
};

class OpenVino : public Network {
  public:
    OpenVino(const Bundle& bundle, const Contents& contents)
        : bundle_(bundle), weights_(content_of(contents, WEIGHTS, bundle)) {
        check_fit();
        const Content& payload = content_of(contents, PAYLOAD, bundle);
        // From memory, not from the files: those may be overwritten while the engine runs.
        model_ = core_.read_model(std::string(payload.data.get(), payload.bytes),
                                  ov::Tensor(ov::element::u8, {weights_.bytes}, weights_.data.get()));
        check_input();
        for (std::size_t i = 0; i < model_->outputs().size(); ++i) add_result(i);
        if (!form_.classes) refuse_form(bundle_, "it has no scores");
        if (has("regions") != has("region_classes")) refuse_form(bundle_, "it has one of regions and region_classes");
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
            if (result.field->floats)
                copy(tensor.data<float>(), tensor.get_size(), count, batch, outputs.*result.field->floats);
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

    template <typename T>
    void copy(const T* from, std::size_t size, std::size_t count, std::size_t batch, std::vector<T>& to) const {
        if (size != to.size() / count * batch)
            throw Error("infer",
                        "The engine gave a result of another size than for " + std::to_string(batch) + " images",
                        bundle_.rebuild());
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
            throw Error("load", "The engine was built with openvino " + bundle_.runtime + "; here is " + version,
                        bundle_.rebuild());
        const auto able = core_.get_property("CPU", ov::device::capabilities);
        const auto has = [&](const char* name) { return std::find(able.begin(), able.end(), name) != able.end(); };
        const std::string here = has("BF16") ? "bf16" : has("FP16") ? "fp16" : "no 16-bit float";
        if (!bundle_.float16.empty() && bundle_.float16 != here)
            throw Error("load", "The engine was built for " + bundle_.float16 + "; this processor has " + here,
                        bundle_.rebuild());
    }

    // Types and shapes as the manifest describes them; the batch alone may be left open.
    bool formed(const ov::Output<ov::Node>& port, ov::element::Type type, const ov::PartialShape& expected) const {
        const ov::PartialShape shape = port.get_partial_shape();
        if (port.get_element_type() != type || shape.rank() != expected.rank()) return false;
        for (std::size_t axis = 1; axis < shape.size(); ++axis)
            if (shape[axis] != expected[axis]) return false;
        return shape[0].is_dynamic() ||
               (bundle_.batches.size() == 1 && shape[0] == static_cast<std::int64_t>(bundle_.batches[0]));
    }

    [[noreturn]] void refuse_port(const std::string& name, const ov::Output<ov::Node>& port,
                                  const ov::PartialShape& expected) const {
        refuse_form(bundle_, name + " is " + port.get_element_type().to_string() + " " +
                                 port.get_partial_shape().to_string() + " and not " + expected.to_string());
    }

    void check_input() const {
        const auto& inputs = model_->inputs();
        if (inputs.size() != 1 || !inputs[0].get_names().count(INPUT))
            refuse_form(bundle_, "its input is not " + std::string(INPUT));
        const std::int64_t side = bundle_.image.size;
        const ov::PartialShape expected{-1, 3, side, side};
        if (!formed(inputs[0], ov::element::f32, expected)) refuse_port(INPUT, inputs[0], expected);
    }

    bool has(const std::string& name) const {
        return std::any_of(results_.begin(), results_.end(),
                           [&](const Result& result) { return name == result.field->name; });
    }

    void add_result(std::size_t index) {
        const ov::Output<ov::Node> port = model_->output(index);
        // A reshape swapped with what followed it leaves a port with both their names: ours is among them.
        const auto& names = port.get_names();
        const Field* field = std::find_if(std::begin(FIELDS), std::end(FIELDS),
                                          [&](const Field& each) { return names.count(each.name) > 0; });
        if (field == std::end(FIELDS))
            refuse_form(bundle_, "it has " + (names.empty() ? "an output without a name" : *names.begin()));
        const bool boxes = field->rank == 3, of_regions = boxes || !field->floats;
        const ov::PartialShape shape = port.get_partial_shape();
        if (of_regions && !form_.regions && shape.rank() == field->rank && shape[1].is_static())
            form_.regions = static_cast<std::size_t>(shape[1].get_length());
        ov::PartialShape expected{-1, static_cast<std::int64_t>(of_regions ? form_.regions : bundle_.labels.size())};
        if (boxes) expected.push_back(4);
        if (!formed(port, field->floats ? ov::element::f32 : ov::element::i64, expected))
            refuse_port(field->name, port, expected);
        if (field->floats == &Outputs::scores) form_.classes = bundle_.labels.size();
        form_.global_scores |= field->floats == &Outputs::global_scores;
        form_.local_scores |= field->floats == &Outputs::local_scores;
        results_.push_back({index, field});
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
    Form form_;
    ov::Core core_;
    std::shared_ptr<ov::Model> model_;
    std::vector<Result> results_;
    std::mutex lock_;
    std::map<std::size_t, ov::CompiledModel> compiled_;
    std::map<std::size_t, std::vector<Lane>> idle_;
};

// What OpenVINO throws, in our form: not only its own exceptions come out of it.
template <typename Work>
void guarded(const char* stage, const char* problem, const std::string& fix, Work work) {
    try {
        work();
    } catch (const Error&) {
        throw;
    } catch (const std::exception& error) {
        throw Error(stage, std::string(problem) + ": " + one_line(error.what()), fix);
    }
}

class Guarded : public Network {
  public:
    Guarded(const Bundle& bundle, const Contents& contents) : fix_(bundle.rebuild()) {
        guarded("load", "OpenVINO cannot read the engine", fix_,
                [&] { inner_ = std::make_unique<OpenVino>(bundle, contents); });
    }
    Form form() const override { return inner_->form(); }
    void run(const float* images, std::size_t count, std::size_t batch, Outputs& outputs) override {
        guarded("infer", "OpenVINO cannot run the engine", fix_, [&] { inner_->run(images, count, batch, outputs); });
    }

  private:
    const std::string fix_;
    std::unique_ptr<OpenVino> inner_;
};

}  // namespace

std::unique_ptr<Network> open_openvino(const Bundle& bundle, const Contents& contents) {
    return std::make_unique<Guarded>(bundle, contents);
}

}  // namespace edge
