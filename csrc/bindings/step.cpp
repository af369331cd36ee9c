// Steps for Python: makes the arrays under the GIL, lets the engine fill them without it.
#include <pybind11/numpy.h>
#include <pybind11/stl.h>

#include <algorithm>

#include "base/error.h"
#include "bindings/native.h"
#include "engine/score.h"

namespace py = pybind11;

namespace moeflux::bindings {

namespace {

using Ids = py::array_t<uint32_t, py::array::c_style>;

// What an item of Python asks, without what it wants to see. Keeps alive what the request points
// to.
struct Asked {
  Asked(const NativeModel& model, const py::handle& item) {
    const auto [session, tokens, routing, origin] =
        item.cast<std::tuple<const NativeSession*, Ids, const NativeRouting*, uint32_t>>();
    if (session->model.get() != &model || (routing && routing->model.get() != &model))
      throw SessionError("[engine::Session] the session belongs to another model");
    ids = tokens;
    // Refused before anything of its size is allocated; the engine checks the rest.
    if (ids.size() > py::ssize_t(session->session->context()))
      throw SessionError("[engine::Session] ", ids.size(), " tokens pass the context of ",
                         session->session->context(), "; load with a larger context=");
    request.session = &*session->session;
    request.tokens = {ids.data(), static_cast<size_t>(ids.size())};
    request.routing = routing ? &*routing->routing : nullptr;
    request.routing_origin = origin;
  }

  Ids ids;
  engine::Request request;
};

// One request and the arrays that it fills.
class Answer : public Asked {
 public:
  Answer(const NativeModel& model, const py::handle& item, bool all_logits,
         const std::vector<std::string>& capture)
      : Asked(model, item) {
    const model::Weights& weights = *model.weights;
    const py::ssize_t n = ids.size(), vocab = weights.spec.vocab;
    request.all_logits = all_logits;
    using Shape = std::vector<py::ssize_t>;
    float* logits = array("logits", all_logits ? Shape{n, vocab} : Shape{vocab});
    request.on_logits = [=](uint32_t token, const float* row) {
      std::copy_n(row, vocab, logits + (all_logits ? token * vocab : 0));
    };
    for (const std::string& name : capture) add(weights, name);
  }

  py::dict out;

 private:
  float* array(const char* name, std::vector<py::ssize_t> shape) {
    py::array_t<float> values(std::move(shape));
    out[name] = values;
    return values.mutable_data();
  }

  void add(const model::Weights& weights, const std::string& name) {
    engine::Capture& capture = request.capture;
    const uint32_t other_k = request.routing ? request.routing->top_k : 0;
    capture.top_k = other_k ? other_k : weights.top_k();
    capture.n_experts = weights.n_experts();
    const py::ssize_t n = ids.size(), n_layers = static_cast<py::ssize_t>(weights.layers.size());
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
      throw SessionError("[session] capture: expected router, experts or hidden, found ", name);
    }
  }
};

}  // namespace

py::list step_batch(NativeModel& model, const py::list& items, bool all_logits,
                    const std::vector<std::string>& capture,
                    std::optional<uint64_t> aborts_before) {
  const uint64_t before = aborts_before.value_or(model.aborts);
  std::vector<Answer> answers;
  std::vector<engine::Request> requests;
  for (const py::handle& item : items) {
    answers.emplace_back(model, item, all_logits, capture);
    requests.push_back(answers.back().request);
  }
  locked(model, [&](engine::Engine& engine) { engine.step(requests); }, before);
  py::list out;
  for (Answer& answer : answers) out.append(std::move(answer.out));
  return out;
}

py::tuple score(NativeModel& model, const py::tuple& item) {
  const uint64_t before = model.aborts;
  const Asked asked(model, item);
  py::array_t<float> logprobs(asked.ids.size());
  py::array_t<bool> greedy(asked.ids.size());
  float* logprob = logprobs.mutable_data();
  bool* best = greedy.mutable_data();
  locked(
      model, [&](engine::Engine& engine) { engine::score(engine, asked.request, logprob, best); },
      before);
  return py::make_tuple(logprobs, greedy);
}

NativeRouting make_routing(const std::shared_ptr<NativeModel>& model, uint32_t top_k,
                           const py::object& mask, const py::object& forced, bool repeat,
                           const std::string& name, bool and_session) {
  engine::RoutingOverride routing;
  routing.top_k = top_k;
  routing.repeat = repeat;
  routing.name = name;
  if (!mask.is_none()) {
    const auto values = mask.cast<py::array_t<uint8_t, py::array::c_style>>();
    routing.masked.assign(values.data(), values.data() + values.size());
  }
  if (!forced.is_none()) {
    const auto values = forced.cast<py::array_t<int32_t, py::array::c_style>>();
    if (values.ndim() != 3)
      throw SessionError("[engine::Routing] expected forced experts of (tokens, layers, top_k)");
    routing.n_forced = static_cast<uint32_t>(values.shape(0));
    routing.forced.assign(values.data(), values.data() + values.size());
  }
  return {model, Owned(locked(*model, [&](engine::Engine& engine) {
            return engine.new_override(std::move(routing), and_session);
          }))};
}

}  // namespace moeflux::bindings
