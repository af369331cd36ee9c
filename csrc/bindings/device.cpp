// Backend and Buffer for Python (moeflux/gpu/): devices, their buffers and command buffers. Recording
// holds the GIL; opening, compiling, committing and waiting release it. Only the thread that holds the GIL
// touches the lists below.
#include "device/device.h"

#include <pybind11/pybind11.h>
#include <pybind11/stl.h>

#include <algorithm>
#include <exception>
#include <set>
#include <tuple>

#include "base/error.h"
#include "base/mutex.h"
#include "bindings/bindings.h"
#include "bindings/native_device.h"
#include "device/check.h"

namespace py = pybind11;

namespace moeflux::bindings {

namespace {

constexpr uint64_t kPollNs = 50'000'000;  // between two looks at signals: Ctrl-C feels immediate

using OptionalSize = std::optional<device::Size>;

std::shared_ptr<device::Device> open_device(const std::string& name) {
  for (const device::Kind& kind : device::kKinds)
    if (kind.name == name) return kind.open();
  throw FormatError("[bindings::Device] expected one of device_kinds(), found ", name);
}

struct NativePipeline {
  NativeDevice device;
  std::shared_ptr<device::Pipeline> pipeline;

  bool writes(size_t argument) const {  // or may: nothing is known of somebody's own kernel
    const device::KernelInfo& info = pipeline->info();
    return info.is_own || (argument < info.bindings.size() && info.bindings[argument].writable);
  }
};

struct NativeLibrary {
  NativeDevice device;
  std::shared_ptr<device::OwnLibrary> library;
};

class NativeCommands;

// Views of Python's memory that a device is through with. A thread of the device cannot take the GIL
// (the interpreter may be at its end), so that they go when a thread that has it comes by.
class LetGo {
 public:
  static LetGo& of_python() {
    static auto& all = *new LetGo;  // devices may outlive main
    return all;
  }
  void add(py::buffer_info* view) {
    const base::Lock lock(mutex_);
    views_.push_back(view);
  }
  void clear() {  // REQUIRES: the GIL
    std::vector<py::buffer_info*> views;
    {
      const base::Lock lock(mutex_);
      views.swap(views_);
    }
    for (const py::buffer_info* view : views) delete view;
  }

 private:
  base::Mutex mutex_;
  std::vector<py::buffer_info*> views_ GUARDED_BY(mutex_);
};

// Memory of a device, and the committed command buffers that write it and that nobody waited for.
class NativeBuffer {
 public:
  NativeBuffer(const NativeDevice& device, uint64_t nbytes)
      : device_(device),  // zeroing takes its time
        buffer_(unlocked([&device = *device.device, nbytes] { return device.buffer(nbytes); })) {}

  // Memory of a Python object, which is kept until the device is through with it.
  NativeBuffer(const NativeDevice& device, const py::buffer& object)
      : device_(device), buffer_(wrapped(*device.device, object)) {}
  ~NativeBuffer() {
    buffer_ = {};
    LetGo::of_python().clear();
  }

  const std::shared_ptr<device::Buffer>& get() const { return buffer_.share(); }

  void add_writer(std::shared_ptr<NativeCommands> commands);
  // Throws what a command that writes it failed with, unless that was thrown before.
  void wait();

 private:
  static std::shared_ptr<device::Buffer> wrapped(device::Device& device, const py::buffer& object) {
    auto* view = new py::buffer_info(object.request());
    const auto nbytes = static_cast<uint64_t>(view->size * view->itemsize);
    try {
      return unlocked([&] {
        return device.wrap(static_cast<std::byte*>(view->ptr), nbytes,
                           [view] { LetGo::of_python().add(view); });
      });
    } catch (...) {
      delete view;
      throw;
    }
  }

  NativeDevice device_;
  Owned<device::Buffer, GpuError> buffer_;
  std::vector<std::shared_ptr<NativeCommands>> writers_;
};

// One command buffer: recording until commit(), then in flight, then done.
class NativeCommands : public std::enable_shared_from_this<NativeCommands> {
 public:
  explicit NativeCommands(const NativeDevice& device)
      : device_(device), commands_(device.device->commands()) {}

  void dispatch(const NativePipeline& pipeline, const py::list& values, const OptionalSize& grid,
                const OptionalSize& threadgroup) {
    if (state_ != State::recording) throw GpuError("[bindings::Command] it is committed already");
    std::vector<std::shared_ptr<NativeBuffer>> written;
    std::vector<device::Argument> args;
    for (const py::handle& value : values) {
      if (value.is_none()) {
        args.emplace_back(device::Slice{});
      } else if (py::isinstance<NativeBuffer>(value)) {
        const auto buffer = value.cast<std::shared_ptr<NativeBuffer>>();
        if (pipeline.writes(args.size())) written.push_back(buffer);
        args.emplace_back(device::Slice{buffer->get(), 0});
      } else if (py::isinstance<py::list>(value)) {
        args.emplace_back(device::Slice{addresses(value.cast<py::list>()), 0});
      } else if (py::isinstance<py::tuple>(value)) {  // a part: buffer, offset, bytes
        const auto [buffer, offset, nbytes] =
            value.cast<std::tuple<std::shared_ptr<NativeBuffer>, uint64_t, uint64_t>>();
        if (pipeline.writes(args.size())) written.push_back(buffer);
        args.emplace_back(device::Slice{buffer->get(), offset, nbytes});
      } else {
        args.emplace_back(device::Scalar{value.cast<uint32_t>()});
      }
    }
    device::Geometry geometry{grid.value_or(device::Size{}), threadgroup.value_or(device::Size{})};
    if (!grid || !threadgroup) {
      const device::Geometry whole =
          device::default_geometry(*pipeline.pipeline, args, threadgroup);
      geometry.threadgroup = whole.threadgroup;
      if (!grid) geometry.grid = whole.grid;
    }
    commands_->dispatch(pipeline.pipeline, args, geometry.grid, geometry.threadgroup);
    written_.insert(written.begin(), written.end());
  }

  void commit() {
    if (state_ != State::recording) throw GpuError("[bindings::Command] it is committed already");
    state_ = State::committing;
    try {  // a queue that is full makes it wait
      unlocked([&commands = *commands_] { commands.commit(); });
    } catch (...) {
      state_ = State::recording;
      throw;
    }
    state_ = State::in_flight;
    for (const auto& buffer : written_) buffer->add_writer(shared_from_this());
    written_.clear();
  }

  bool committed() const { return state_ == State::in_flight || state_ == State::done; }
  bool done() const { return state_ == State::done || (committed() && commands_->done()); }
  bool reported() const { return reported_; }

  // Whether it ended well; false while it is in flight.
  bool succeeded() {
    std::exception_ptr error;
    if (state_ == State::in_flight && ask(0, error)) finish(error);
    return state_ == State::done && error_ == nullptr;
  }

  // Throws what the device reported, each time; Raised when a Python signal handler raised.
  void wait() {
    if (!committed()) throw GpuError("[bindings::Command] expected a committed command buffer");
    while (state_ != State::done) {
      bool over = false;
      std::exception_ptr error;
      {
        const NoGil no_gil;
        over = ask(kPollNs, error);
      }
      if (over) finish(error);
      check_signals();
    }
    reported_ = true;
    if (error_ != nullptr) std::rethrow_exception(error_);
  }

  double gpu_seconds() const {
    if (!done()) throw GpuError("[bindings::Command] expected a command buffer that is done");
    return static_cast<double>(commands_->gpu_ns()) * 1e-9;
  }

 private:
  std::shared_ptr<device::Buffer> addresses(const py::list& values) const {
    std::vector<std::shared_ptr<device::Buffer>> buffers;
    for (const py::handle& value : values)
      buffers.push_back(value.is_none() ? nullptr
                                        : value.cast<std::shared_ptr<NativeBuffer>>()->get());
    return device_.device->addresses(buffers);
  }

  enum class State { recording, committing, in_flight, done };

  // True when it is done, `error` being what it failed with. Needs no GIL.
  bool ask(uint64_t timeout_ns, std::exception_ptr& error) const {
    try {
      return commands_->wait_for(timeout_ns);
    } catch (...) {
      error = std::current_exception();
      return true;
    }
  }
  void finish(const std::exception_ptr& error) {
    if (state_ == State::done) return;  // another thread waited too
    state_ = State::done;
    error_ = error;
  }

  NativeDevice device_;
  Owned<device::Commands, GpuError> commands_;
  std::set<std::shared_ptr<NativeBuffer>> written_;  // while recording
  State state_ = State::recording;
  std::exception_ptr error_;
  bool reported_ = false;  // wait() has returned or thrown
};

void NativeBuffer::add_writer(std::shared_ptr<NativeCommands> commands) {
  std::erase_if(writers_, [](const auto& w) { return w->reported() || w->succeeded(); });
  writers_.push_back(std::move(commands));
}

void NativeBuffer::wait() {
  buffer_.share();  // refuses in a forked child
  while (!writers_.empty()) {
    const std::shared_ptr<NativeCommands> writer = writers_.front();
    const auto forget = [&] { std::erase(writers_, writer); };
    if (writer->reported()) {
      forget();
      continue;
    }
    try {
      writer->wait();
    } catch (const Raised&) {  // still in flight
      throw;
    } catch (...) {
      forget();
      throw;
    }
    forget();
  }
}

py::dict limits(const NativeDevice& self) {
  const device::Limits& l = self.device->limits();
  using namespace py::literals;
  return py::dict("max_buffer_bytes"_a = l.max_buffer_bytes,
                  "working_set_bytes"_a = l.working_set_bytes, "max_threads"_a = l.max_threads,
                  "threadgroup_bytes"_a = l.threadgroup_bytes, "page_bytes"_a = l.page_bytes,
                  "unified_memory"_a = l.unified_memory);
}

NativePipeline pipeline(const NativeDevice& self, const std::string& kernel,
                        const device::Constants& constants) {
  device::Device& device = *self.device;
  return {self, unlocked([&] { return device.pipeline(kernel, constants); })};
}

py::dict constants(const NativePipeline& self) {
  py::dict out;
  const auto names = self.pipeline->info().constants;
  const auto values = self.pipeline->constants();
  for (size_t i = 0; i < names.size(); ++i) out[names[i].name] = values[i];
  return out;
}

}  // namespace

void register_device(py::module_& module) {
  module.def("device_kinds", [] {
    py::dict kinds;
    for (const device::Kind& kind : device::kKinds) kinds[kind.name] = kind.is_gpu;
    return kinds;
  });
  py::class_<NativeDevice>(module, "NativeDevice")
      .def(py::init([](const std::string& kind) {
             return NativeDevice{
                 Owned<device::Device, GpuError>(unlocked([&] { return open_device(kind); }))};
           }),
           py::arg("kind"))
      .def_property_readonly("kind", [](const NativeDevice& self) { return self.device->kind(); })
      .def_property_readonly("name", [](const NativeDevice& self) { return self.device->name(); })
      .def_property_readonly("limits", &limits)
      .def_property_readonly("pipeline_count",
                             [](const NativeDevice& self) { return self.device->pipeline_count(); })
      .def(
          "untold_threads",
          [](const NativeDevice& self, const std::string& kernel) {
            device::Device& device = *self.device;
            return unlocked([&] { return device.untold_threads(kernel); });
          },
          py::arg("kernel"))
      .def("pipeline", &pipeline, py::arg("kernel"), py::arg("constants"))
      .def(
          "compile",
          [](const NativeDevice& self, const std::string& source) {
            device::Device& device = *self.device;
            return NativeLibrary{self, unlocked([&] { return device.compile(source); })};
          },
          py::arg("source"))
      .def("begin_capture", [](const NativeDevice& self,
                               const std::string& path) { self.device->begin_capture(path); })
      .def("end_capture", [](const NativeDevice& self) { self.device->end_capture(); });
  py::class_<NativeLibrary>(module, "NativeLibrary")
      .def(
          "pipeline",
          [](const NativeLibrary& self, const std::string& kernel) {
            device::OwnLibrary& library = *self.library;
            return NativePipeline{self.device, unlocked([&] { return library.pipeline(kernel); })};
          },
          py::arg("kernel"));
  py::class_<NativePipeline>(module, "NativePipeline")
      .def_property_readonly("constants", &constants)
      .def_property_readonly(
          "max_threads", [](const NativePipeline& self) { return self.pipeline->max_threads(); });
  py::class_<NativeBuffer, std::shared_ptr<NativeBuffer>>(module, "NativeBuffer",
                                                          py::buffer_protocol())
      .def(py::init<const NativeDevice&, uint64_t>(), py::arg("device"), py::arg("nbytes"))
      .def(py::init<const NativeDevice&, const py::buffer&>(), py::arg("device"), py::arg("memory"))
      .def("wait", &NativeBuffer::wait)
      .def_buffer([](const NativeBuffer& self) {
        if (self.get()->contents() == nullptr)
          throw GpuError("[bindings::Buffer] memory of this device is out of the CPU's reach");
        const auto n = static_cast<py::ssize_t>(self.get()->nbytes());
        return py::buffer_info(self.get()->contents(), 1, "B", 1, {n}, {1});
      });
  py::class_<NativeCommands, std::shared_ptr<NativeCommands>>(module, "NativeCommands")
      .def(py::init<const NativeDevice&>(), py::arg("device"))
      .def("dispatch", &NativeCommands::dispatch, py::arg("pipeline"), py::arg("args"),
           py::arg("grid"), py::arg("threadgroup"))
      .def("commit", &NativeCommands::commit)
      .def("wait", &NativeCommands::wait)
      .def_property_readonly("committed", &NativeCommands::committed)
      .def_property_readonly("done", &NativeCommands::done)
      .def_property_readonly("gpu_seconds", &NativeCommands::gpu_seconds);
}

}  // namespace moeflux::bindings
