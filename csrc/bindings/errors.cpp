// Maps the core's exceptions to the classes of moeflux.errors, by name.
#include <new>

#include "base/error.h"
#include "bindings/bindings.h"
#include "bindings/gil.h"

namespace py = pybind11;

namespace moeflux::bindings {

namespace {
void raise(const char* name, const Error& error) {
  const py::object cls = py::module_::import("moeflux.errors").attr(name);
  // As Python decodes names of files: a path need not be UTF-8.
  const auto text = py::reinterpret_steal<py::object>(PyUnicode_DecodeFSDefault(error.what()));
  const py::object raised = cls(text);
  if (error.request) raised.attr("_request") = *error.request;  // stepping.py: the session
  PyErr_SetObject(cls.ptr(), raised.ptr());
}
}  // namespace

void register_errors(py::module_&) {
  py::register_exception_translator([](std::exception_ptr pointer) {
    try {
      if (pointer) std::rethrow_exception(pointer);
    } catch (const Raised&) {  // the Python error is already set
    } catch (const Ending&) {  // ends a thread without a word
      PyErr_SetNone(PyExc_SystemExit);
    } catch (const std::bad_alloc&) {
      raise("MemoryBudgetError", Error("[bindings] the system has no memory left"));
    } catch (const FormatError& error) {
      raise("FormatError", error);
    } catch (const IoError& error) {
      raise("IoError", error);
    } catch (const MemoryBudgetError& error) {
      raise("MemoryBudgetError", error);
    } catch (const SessionError& error) {
      raise("SessionError", error);
    } catch (const Interrupted& error) {
      raise("Interrupted", error);
    } catch (const NoDeviceError& error) {
      raise("NoDeviceError", error);
    } catch (const LibraryCompileError& error) {
      raise("LibraryCompileError", error);
    } catch (const KernelNotFoundError& error) {
      raise("KernelNotFoundError", error);
    } catch (const PipelineError& error) {
      raise("PipelineError", error);
    } catch (const GpuError& error) {
      raise("GpuError", error);
    } catch (const Error& error) {
      raise("MoefluxError", error);
    }
  });
}

}  // namespace moeflux::bindings
