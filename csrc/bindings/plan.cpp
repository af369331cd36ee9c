// The planner's questions to the core: what a model needs, how it would fit, what the machine does.
#include "bindings/plan.h"

#include <pybind11/stl.h>

#include "base/error.h"
#include "bindings/bindings.h"
#include "bindings/compute.h"
#include "bindings/native_device.h"
#include "bindings/spec.h"
#include "engine/probe.h"
#include "model/loader.h"
#include "ops/gpu/device_arena.h"
#include "store/read_plan.h"

namespace py = pybind11;

namespace moeflux::bindings {

namespace {

using namespace py::literals;
using Files = std::vector<std::shared_ptr<io::File>>;

using Widths = std::vector<std::pair<uint32_t, uint64_t>>;              // PlanInput::Width
using Classes = std::vector<std::tuple<uint64_t, uint64_t, uint32_t>>;  // store::SizeClass

py::dict measure_model(const py::dict& spec, const std::vector<uint64_t>& file_bytes,
                       const ComputeOptions& compute, const engine::Options& options) {
  const auto [sizes, state_bytes, extent, caches] = measure(spec, file_bytes, compute, options);
  Classes classes;
  for (const store::SizeClass& k : sizes.classes)
    classes.emplace_back(k.slot_bytes, k.n_experts, k.n_layers);
  Widths wider;
  for (const auto& [rows, nbytes] : sizes.wider) wider.emplace_back(rows, nbytes);
  std::vector<std::tuple<uint64_t, uint32_t, uint32_t>> windows;
  for (const auto& [nbytes, window, most] : caches) windows.emplace_back(nbytes, window, most);
  return py::dict("resident_bytes"_a = sizes.resident_bytes,
                  "scratch_bytes"_a = sizes.scratch_bytes, "session_bytes"_a = sizes.session_bytes,
                  "classes"_a = classes, "top_k"_a = sizes.top_k, "state_bytes"_a = state_bytes,
                  "extent"_a = extent, "caches"_a = windows, "chunk"_a = sizes.chunk,
                  "rows"_a = sizes.rows, "wider"_a = wider);
}

// Why the device cannot compute a model that is right in itself; None: it can.
std::optional<std::string> refusal(const py::dict& spec, const std::vector<uint64_t>& file_bytes,
                                   const ComputeOptions& compute, const engine::Options& options) {
  try {
    measure(spec, file_bytes, compute, options);
  } catch (const NoKernelError& error) {
    return error.what();
  } catch (const GpuError& error) {  // a buffer that it does not make
    return error.what();
  }
  return std::nullopt;
}

py::dict make_plan(const py::kwargs& sizes) {  // of plan.h, by name; max_slots: any
  store::PlanInput in;
  const auto take = [&](const char* name, auto& field) {
    field = sizes[name].cast<std::remove_reference_t<decltype(field)>>();
  };
  take("memory_bytes", in.memory_bytes);
  take("resident_bytes", in.resident_bytes);
  take("scratch_bytes", in.scratch_bytes);
  take("session_bytes", in.session_bytes);
  take("top_k", in.top_k);
  take("chunk", in.chunk);
  take("rows", in.rows);
  for (const auto& [rows, nbytes] : sizes["wider"].cast<Widths>())
    in.wider.push_back({rows, nbytes});
  for (const auto& [slot_bytes, n_experts, n_layers] : sizes["classes"].cast<Classes>())
    in.classes.push_back({slot_bytes, n_experts, n_layers});
  const store::Plan plan = store::make_plan(in);
  return py::dict("minimum_bytes"_a = plan.minimum_bytes, "min_slots"_a = plan.min_slots,
                  "max_slots"_a = plan.max_slots, "slots"_a = plan.slots,
                  "holds_cycle"_a = plan.holds_cycle, "rows"_a = plan.rows,
                  "pass_bytes"_a = plan.pass_bytes);
}

py::dict to_dict(const engine::Rate& rate) {
  return py::dict("nbytes"_a = rate.nbytes, "rounds"_a = rate.rounds, "seconds"_a = rate.seconds);
}

// parts of one layer: [(nbytes, [file of each expert], [offset of each expert])]
using Layer = std::vector<std::tuple<uint64_t, std::vector<uint32_t>, std::vector<uint64_t>>>;

std::vector<store::LayerExperts> experts_of(const std::vector<Layer>& layers) {  // not placed
  std::vector<store::LayerExperts> experts;
  for (const Layer& layer : layers) {
    experts.emplace_back();
    for (const auto& [nbytes, file, offset] : layer) {
      experts.back().n_experts = static_cast<uint32_t>(file.size());
      experts.back().parts.push_back({nbytes, 0, file, offset});
    }
  }
  return experts;
}

py::dict probe_reads(const std::vector<std::string>& paths, const std::vector<Layer>& layers,
                     uint32_t batch, uint32_t read_threads, double seconds, bool direct,
                     const NativeDevice* device) {
  Files files;
  for (const std::string& path : paths) files.push_back(io::open_posix(path, direct));
  const uint64_t alignment = device ? ops::gpu::DeviceArena::kWeightAlignment : 1;
  std::vector<store::LayerExperts> experts = experts_of(layers);
  for (store::LayerExperts& layer : experts) store::place_parts(layer, alignment);
  const bool is_direct = std::all_of(files.begin(), files.end(),
                                     [](const auto& file) { return file->alignment() > 1; });
  py::dict out = to_dict(
      unlocked([&] { return engine::probe_reads(files, experts, batch, read_threads, seconds); }));
  out["mode"] = is_direct ? "direct" : "buffered";
  return out;
}

// `layers` must have the experts that `experts` describes (spec.h).
py::list probe_layer(const std::vector<std::string>& paths, const std::vector<Layer>& layers,
                     const py::dict& experts, const ComputeOptions& compute_options, uint32_t top_k,
                     const std::vector<uint32_t>& misses, uint32_t n_slots, uint32_t read_threads,
                     double seconds) {
  Files files;
  for (const std::string& path : paths) files.push_back(io::open_posix(path, true));
  const model::ExpertLayout layout{model::expert_shapes(to_node(experts))};
  py::list out;
  for (const engine::Rate& rate : unlocked([&] {
         base::Account account(UINT64_MAX);
         const Compute compute = open_compute(account, compute_options);
         std::vector<store::LayerExperts> placed = experts_of(layers);
         std::vector<model::ExpertLayout> layouts(placed.size(), layout);
         for (size_t i = 0; i < placed.size(); ++i)
           model::place_experts(placed[i], compute.arena->weight_alignment(), layouts[i]);
         return engine::probe_layer(files, placed, layouts, *compute.ops, *compute.arena, top_k,
                                    misses, n_slots, read_threads, seconds);
       }))
    out.append(to_dict(rate));
  return out;
}

py::dict probe_memory(uint64_t nbytes, int n_threads, double seconds) {
  return to_dict(unlocked([&] { return engine::probe_memory(nbytes, n_threads, seconds); }));
}

py::dict probe_experts(uint32_t d_model, uint32_t d_ff, const std::string& format, uint32_t group,
                       const std::string& dtype, uint32_t top_k, uint64_t nbytes, double seconds,
                       const ComputeOptions& compute_options) {
  const auto matrix = [&](uint32_t out, uint32_t in) {
    const quant::Shape shape{out, in, &quant::find_format(format), group, quant::dtype_of(dtype)};
    quant::check_shape(shape, "probe");
    return ops::Linear{{shape, {}}};
  };
  const ops::GatedFfn shapes{matrix(d_ff, d_model), matrix(d_ff, d_model), matrix(d_model, d_ff)};
  return to_dict(unlocked([&] {
    base::Account account(UINT64_MAX);
    const Compute compute = open_compute(account, compute_options);
    return engine::probe_experts(*compute.ops, *compute.arena, shapes, top_k, nbytes, seconds);
  }));
}

}  // namespace

Needs measure(const py::dict& spec, const std::vector<uint64_t>& file_bytes,
              const ComputeOptions& compute_options, const engine::Options& options) {
  Files files;
  for (uint64_t nbytes : file_bytes) files.push_back(io::open_hole(nbytes, "plan"));
  base::Account account(UINT64_MAX);
  const Compute compute = open_compute(account, compute_options);
  model::Weights weights;
  const auto experts = model::load(to_node(spec), files, *compute.arena, check_signals, weights);
  const engine::SessionLayout layout(weights, options.context, *compute.ops, *compute.arena);
  std::vector<Needs::Cache> caches;
  for (const engine::CacheLayout& cache : layout.caches())
    caches.push_back({cache.extent_bytes(cache.n_blocks(0)), cache.window(),
                      cache.window() ? cache.turning_extents() : 0});
  return {engine::Engine::sizes(weights, experts, *compute.ops, *compute.arena, options),
          layout.bytes(0), layout.extent(), std::move(caches)};
}

void register_plan(py::module_& module) {
  module.def("measure_model", &measure_model, py::kw_only(), "spec"_a, "file_bytes"_a, "compute"_a,
             "options"_a);
  module.def("refusal", &refusal, py::kw_only(), "spec"_a, "file_bytes"_a, "compute"_a,
             "options"_a);
  module.def("make_plan", &make_plan);
  module.def("probe_reads", &probe_reads, "paths"_a, "layers"_a, "batch"_a, "read_threads"_a,
             "seconds"_a, "direct"_a, "device"_a);
  module.def("probe_layer", &probe_layer, py::kw_only(), "paths"_a, "layers"_a, "experts"_a,
             "compute"_a, "top_k"_a, "misses"_a, "n_slots"_a, "read_threads"_a, "seconds"_a);
  module.def("probe_memory", &probe_memory, "nbytes"_a, "n_threads"_a, "seconds"_a);
  module.def("probe_experts", &probe_experts, py::kw_only(), "d_model"_a, "d_ff"_a, "format"_a,
             "group"_a, "dtype"_a, "top_k"_a, "nbytes"_a, "seconds"_a, "compute"_a);
}

}  // namespace moeflux::bindings
