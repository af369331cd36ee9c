// Steps for Python: makes the arrays under the GIL, lets the engine fill them without it.
#include <pybind11/numpy.h>
#include <pybind11/stl.h>

#include <algorithm>

#include "base/error.h"
#include "bindings/native.h"

namespace py = pybind11;

namespace moeflux::bindings {

namespace {

using Ids = py::array_t<uint32_t, py::array::c_style>;

// One request and the arrays that it fills.
class Answer {
 public:
  Answer(const NativeModel& model, const NativeSession& session, Ids ids, bool all_logits,
         const std::vector<std::string>& capture)
      : ids_(std::move(ids)) {
    if (session.model.get() != &model)
      throw SessionError("[engine::Session] the session belongs to another model");
    const model::Weights& weights = *model.weights;
    const py::ssize_t n = ids_.size(), vocab = weights.spec.vocab;
    // Refused before anything of its size is allocated; the engine checks the rest.
    if (n > py::ssize_t(session.session->context()))
      throw SessionError("[engine::Session] " + std::to_string(n) + " tokens pass the context of " +
                         std::to_string(session.session->context()) +
                         "; load with a larger context=");
    request.session = session.session.get();
    request.tokens = {ids_.data(), static_cast<size_t>(n)};
    request.all_logits = all_logits;
    using Shape = std::vector<py::ssize_t>;
    float* logits = array("logits", all_logits ? Shape{n, vocab} : Shape{vocab});
    request.on_logits = [=](uint32_t token, const float* row) {
      std::copy_n(row, vocab, logits + (all_logits ? token * vocab : 0));
    };
    for (const std::string& name : capture) add(weights, name);
  }

  engine::Request request;
  py::dict out;

 private:
  float* array(const char* name, std::vector<py::ssize_t> shape) {
    py::array_t<float> values(std::move(shape));
    out[name] = values;
    return values.mutable_data();
  }

  void add(const model::Weights& weights, const std::string& name) {
    engine::Capture& capture = request.capture;
    capture.top_k = weights.top_k();
    capture.n_experts = weights.n_experts();
    const py::ssize_t n = ids_.size(), n_layers = static_cast<py::ssize_t>(weights.layers.size());
    if (name == "experts") {
      py::array_t<int32_t> experts({n, n_layers, py::ssize_t(capture.top_k)});
      out["experts"] = experts;
      capture.experts = experts.mutable_data();
      capture.weights = array("expert_weights", {n, n_layers, py::ssize_t(capture.top_k)});
    } else if (name == "router") {
      capture.router = array("router", {n, n_layers, py::ssize_t(capture.n_experts)});
    } else if (name == "hidden") {
      capture.hidden = array("hidden", {n, n_layers + 1, py::ssize_t(weights.spec.d_model)});
    } else {
      throw SessionError("[session] capture: expected router, experts or hidden, found " + name);
    }
  }

  Ids ids_;
};

}  // namespace

py::list step_batch(NativeModel& model, const py::list& items, bool all_logits,
                    const std::vector<std::string>& capture) {
  std::vector<Answer> answers;
  std::vector<engine::Request> requests;
  for (const py::handle& item : items) {
    const auto [session, ids] = item.cast<std::pair<const NativeSession*, Ids>>();
    answers.emplace_back(model, *session, ids, all_logits, capture);
    requests.push_back(answers.back().request);
  }
  locked(model, [&] {
    model.engine->step(requests);
    return 0;
  });
  py::list out;
  for (Answer& answer : answers) out.append(std::move(answer.out));
  return out;
}

}  // namespace moeflux::bindings
