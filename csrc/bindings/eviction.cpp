// The store's rule of eviction, for simulations over recorded routing.
#include "store/eviction.h"

#include <pybind11/stl.h>

#include "bindings/bindings.h"

namespace py = pybind11;

namespace moeflux::bindings {

void register_eviction(py::module_& module) {
  using namespace py::literals;
  using store::Eviction;
  constexpr Eviction::Rule kRule;
  py::class_<Eviction> eviction(module, "Eviction");
  eviction.attr("RULE") = py::make_tuple(kRule.use_worth, kRule.half_life);
  eviction
      .def(py::init([](size_t n_keys, float use_worth, float half_life) {
             return Eviction(n_keys, 1, {use_worth, half_life});
           }),
           "n_keys"_a, "use_worth"_a = kRule.use_worth, "half_life"_a = kRule.half_life)
      .def(
          "touch",
          [](Eviction& self, int64_t key, size_t n_slots, bool sweep) {
            self.touch(key, sweep ? store::Use::sweep : store::Use::decode, n_slots);
          },
          "key"_a, "n_slots"_a, "sweep"_a = false)
      .def(
          "park", [](Eviction& self, int64_t key) { self.park(key); }, "key"_a)
      .def(
          "unpark", [](Eviction& self, int64_t key) { self.unpark(key); }, "key"_a)
      .def("evict", [](Eviction& self) { return self.evict(); });
}

}  // namespace moeflux::bindings
