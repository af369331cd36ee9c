// Snapshots for Python: their bytes, and how one is made of bytes. Bytes are copied without a turn of
// the engine: what a snapshot holds is written by nobody, and a draft is its maker's alone.
#include <pybind11/stl.h>

#include <algorithm>
#include <map>
#include <utility>

#include "base/error.h"
#include "bindings/bindings.h"
#include "bindings/native.h"
#include "engine/snapshot_bytes.h"

namespace py = pybind11;

namespace moeflux::bindings {

namespace {

using Shared = std::shared_ptr<engine::Session::Snapshot>;

// A share of what is held, so that it outlives a copy without the GIL.
template <class T>
Shared share_of(const T& held) {
  Shared snapshot = held.snapshot.share();
  if (snapshot == nullptr)
    throw SessionError("[engine::Snapshot] expected a draft, found one that is done");
  return snapshot;
}
template <class T>
engine::SnapshotBytes bytes_of(const T& held, const Shared& snapshot) {
  return {held.model->engine->layout(), *snapshot};
}

// The bytes of a contiguous buffer, which lives as long as `info`.
template <class Byte>
std::span<Byte> span_of(const py::buffer_info& info) {
  if (info.ndim != 1 || info.itemsize != 1 || (info.size > 1 && info.strides[0] != 1))
    throw SessionError("[engine::Snapshot] expected a buffer of contiguous bytes");
  return {static_cast<Byte*>(info.ptr), static_cast<size_t>(info.size)};
}

}  // namespace

py::dict snapshot_form(const NativeModel& model, uint32_t positions) {
  using namespace py::literals;
  const engine::SessionLayout& layout = model.engine->layout();
  std::vector<std::tuple<uint64_t, uint64_t, uint32_t>> layers;
  for (const auto& layer : layout.layers())
    layers.emplace_back(layer.block_bytes, layer.state_bytes, layer.window);
  const uint64_t whole = base::round_up(positions, ops::kCacheBlock);
  return py::dict("extent"_a = std::min<uint64_t>(layout.extent(), whole),
                  "block"_a = ops::kCacheBlock, "layers"_a = layers,
                  "nbytes"_a = layout.saved_bytes(positions), "context"_a = layout.context(),
                  "vocab"_a = model.weights->spec.vocab);
}

void register_snapshots(py::module_& module) {
  py::class_<NativeSnapshot>(module, "NativeSnapshot")
      .def_property_readonly("position",
                             [](const NativeSnapshot& self) { return self.snapshot->positions; })
      .def_property_readonly("nbytes",
                             [](const NativeSnapshot& self) { return self.snapshot->nbytes(); })
      .def_property_readonly("extents",
                             [](const NativeSnapshot& self) {
                               std::map<uintptr_t, uint64_t> extents;
                               for (const auto& [at, nbytes] : self.snapshot->extents())
                                 extents.emplace(reinterpret_cast<uintptr_t>(at), nbytes);
                               return extents;
                             })
      .def_property_readonly("model", [](const NativeSnapshot& self) { return self.model; })
      .def("read", [](const NativeSnapshot& self, uint64_t begin, const py::buffer& to) {
        const py::buffer_info info = to.request(true);
        const auto span = span_of<std::byte>(info);
        const Shared snapshot = share_of(self);
        const engine::SnapshotBytes bytes = bytes_of(self, snapshot);
        unlocked([&] { bytes.read(begin, span); });
      });
  py::class_<NativeDraft>(module, "NativeDraft")
      .def(py::init([](const std::shared_ptr<NativeModel>& model, uint32_t positions) {
             return NativeDraft{model, Owned(locked(*model, [&](engine::Engine& engine) {
                                  return engine.blank_snapshot(positions);
                                }))};
           }),
           py::arg("model").none(false), py::arg("positions"))
      .def("write",
           [](const NativeDraft& self, uint64_t begin, const py::buffer& from) {
             const py::buffer_info info = from.request();
             const auto span = span_of<const std::byte>(info);
             const Shared snapshot = share_of(self);
             const engine::SnapshotBytes bytes = bytes_of(self, snapshot);
             unlocked([&] { bytes.write(begin, span); });
           })
      .def("done", [](NativeDraft& self) {   // no more can be written
        if (share_of(self).use_count() > 2)  // beside the draft's own and this one
          throw SessionError(
              "[engine::Snapshot] expected a draft, found one that is being written");
        return NativeSnapshot{self.model, std::exchange(self.snapshot, {})};
      });
}

}  // namespace moeflux::bindings
