// Samplers for Python.
#include <pybind11/stl.h>

#include "bindings/bindings.h"
#include "bindings/gil.h"
#include "bindings/native_sampler.h"

namespace py = pybind11;

namespace moeflux::bindings {

namespace {

using Logits = py::array_t<float, py::array::c_style | py::array::forcecast>;

std::unique_ptr<NativeSampler> make_sampler(double temperature, uint32_t top_k, double top_p,
                                            double min_p, double repetition_penalty,
                                            double presence_penalty, double frequency_penalty,
                                            std::vector<std::pair<uint32_t, double>> bias,
                                            std::vector<uint32_t> ends, uint64_t min_tokens,
                                            std::optional<uint32_t> top_logprobs,
                                            const Wanted::Words& seen) {
  const bool greedy = temperature == 0;
  return std::unique_ptr<NativeSampler>(
      new NativeSampler{{{greedy,
                          {greedy ? 1 : temperature, top_k, top_p, min_p},
                          repetition_penalty,
                          presence_penalty,
                          frequency_penalty,
                          std::move(bias),
                          std::move(ends),
                          min_tokens,
                          top_logprobs},
                         {seen.data(), static_cast<size_t>(seen.size())}}});
}

std::span<const float> row(const Logits& logits) {
  return {logits.data(), static_cast<size_t>(logits.size())};
}

}  // namespace

Wanted::Wanted(const py::handle& sample)
    : sampler(sample.cast<py::tuple>()[0]), claim(sampler.cast<NativeSampler&>()) {
  const py::tuple given = sample.cast<py::tuple>();
  uniform = given[1].cast<double>();
  if (given[2].is_none()) return;
  words = given[2].cast<Words>();
  if (words.size() == 0) throw SessionError("[sampling] mask: expected words, found none");
  mask = {words.data(), static_cast<size_t>(words.size())};
}

void Wanted::choose(std::span<const float> logits) {
  choice = claim->choose(logits, uniform, mask);
}

void Wanted::tell(py::dict& out) {
  using namespace py::literals;
  out["token"] = choice.token;
  out["logprob"] = choice.logprob;
  out["top"] = py::tuple(py::cast(choice.top));
  claim->take(choice.token);
}

void register_sampling(py::module_& module) {
  using namespace py::literals;
  py::class_<NativeSampler>(module, "NativeSampler")
      .def(py::init(&make_sampler), py::kw_only(), "temperature"_a, "top_k"_a, "top_p"_a, "min_p"_a,
           "repetition_penalty"_a, "presence_penalty"_a, "frequency_penalty"_a, "bias"_a, "ends"_a,
           "min_tokens"_a, "top_logprobs"_a, "seen"_a)
      .def("take", [](NativeSampler& self, uint32_t token) { Claim(self)->take(token); });
  module.def(
      "choose",
      [](const Logits& logits, const py::handle& sample) {
        Wanted wanted(sample);
        unlocked([&] { wanted.choose(row(logits)); });
        py::dict out;
        wanted.tell(out);
        return out;
      },
      "logits"_a, "sample"_a);
  module.def(
      "distribution",
      [](const Logits& logits, const py::handle& sample) {
        const Wanted wanted(sample);
        const sampling::Kept kept =
            unlocked([&] { return wanted.claim->distribution(row(logits), wanted.mask); });
        return py::make_tuple(py::array_t<uint32_t>(kept.ids.size(), kept.ids.data()),
                              py::array_t<double>(kept.weights.size(), kept.weights.data()));
      },
      "logits"_a, "sample"_a);
}

}  // namespace moeflux::bindings
