// Steps for Python: makes the arrays under the GIL, lets the engine fill them without it.
#include <pybind11/numpy.h>
#include <pybind11/stl.h>

#include <algorithm>

#include "base/error.h"
#include "bindings/native.h"
#include "bindings/native_sampler.h"
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
  Answer(const NativeModel& model, const py::handle& item, const std::string& logits,
         const std::vector<std::string>& capture, const py::handle& sample)
      : Asked(model, item) {
    if (logits != "none" && logits != "last" && logits != "all")
      throw SessionError("[moeflux._core] expected logits of none, last or all, found ", logits);
    if (!sample.is_none())
      add_choice(model.weights->spec.vocab, sample);
    else if (logits != "none")
      add_logits(model.weights->spec.vocab, logits == "all");
    for (const std::string& name : capture) add(*model.weights, name);
  }

  // What has been found; the samplers go on.
  py::dict told() {
    if (choice_) choice_->tell(out_);
    return std::move(out_);
  }

 private:
  void add_logits(py::ssize_t vocab, bool all) {
    using Shape = std::vector<py::ssize_t>;
    request.all_logits = all;
    float* logits = array("logits", all ? Shape{ids.size(), vocab} : Shape{vocab});
    request.on_logits = [=](uint32_t token, const float* row) {
      std::copy_n(row, vocab, logits + (all ? token * vocab : 0));
    };
  }

  void add_choice(size_t vocab, const py::handle& sample) {
    choice_ = std::make_unique<Wanted>(sample);
    request.on_logits = [wanted = choice_.get(), vocab](uint32_t, const float* row) {
      wanted->choose({row, vocab});
    };
  }

  float* array(const char* name, std::vector<py::ssize_t> shape) {
    py::array_t<float> values(std::move(shape));
    out_[name] = values;
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
      out_["experts"] = experts;
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

  py::dict out_;
  std::unique_ptr<Wanted> choice_;
};

// f(engine), a step, in this thread's turn; gives what it took.
template <class F>
py::dict counted(NativeModel& model, uint64_t aborts_before, F&& f) {
  using namespace py::literals;
  const auto [before, after] = locked(
      model,
      [&](engine::Engine& engine) {
        const engine::Stats begin = engine.stats();
        f(engine);
        return std::pair(begin, engine.stats());
      },
      aborts_before);
  const uint64_t wait_ns = after.pipeline.read_wait_ns - before.pipeline.read_wait_ns;
  return py::dict("hits"_a = after.store.hits - before.store.hits,
                  "misses"_a = after.store.misses - before.store.misses,
                  "bytes_read"_a = after.store.bytes_read - before.store.bytes_read,
                  "wait_seconds"_a = wait_ns * 1e-9);
}

}  // namespace

py::tuple step_batch(NativeModel& model, const py::list& items, const std::string& logits,
                     const std::vector<std::string>& capture, std::optional<uint64_t> aborts_before,
                     const std::optional<py::list>& samples) {
  const uint64_t before = aborts_before.value_or(model.aborts);
  std::vector<Answer> answers;
  std::vector<engine::Request> requests;
  for (uint32_t i = 0; i < items.size(); ++i) {
    const py::object sample = samples ? py::object((*samples)[i]) : py::none();
    blaming(i, [&] { answers.emplace_back(model, items[i], logits, capture, sample); });
    requests.push_back(answers.back().request);
  }
  const py::dict counts =
      counted(model, before, [&](engine::Engine& engine) { engine.step(requests); });
  py::list out;
  for (Answer& answer : answers) out.append(answer.told());
  return py::make_tuple(out, counts);
}

py::tuple score(NativeModel& model, const py::tuple& item, uint32_t top,
                std::optional<uint32_t> following) {
  const uint64_t before = model.aborts;
  const Asked asked(model, item);
  const py::ssize_t n = asked.ids.size() + following.has_value();
  const py::ssize_t n_top = std::min(top, model.weights->spec.vocab);
  py::array_t<float> logprobs(n), values({n, n_top});
  py::array_t<bool> greedy(n);
  py::array_t<uint32_t> ids({n, n_top});
  const engine::Scores scores{logprobs.mutable_data(), greedy.mutable_data(),
                              static_cast<uint32_t>(n_top), ids.mutable_data(),
                              values.mutable_data()};
  const py::dict counts = counted(model, before, [&](engine::Engine& engine) {
    engine::score(engine, asked.request, following, scores);
  });
  return py::make_tuple(logprobs, greedy, ids, values, counts);
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
