#include "device/metal/capture.h"

#include "base/error.h"
#include "device/metal/retained.h"
#include "device/metal/text.h"

namespace moeflux::device::metal {

void begin_capture(id<MTLDevice> device, const std::string& path) {
  MTLCaptureManager* manager = [MTLCaptureManager sharedCaptureManager];
  if (![manager supportsDestination:MTLCaptureDestinationGPUTraceDocument])
    throw GpuError("[device::capture] this process may not record the GPU: set "
                   "MTL_CAPTURE_ENABLED=1 before it "
                   "starts");
  if (manager.isCapturing)
    throw GpuError("[device::capture] expected no other capture, found one under way");
  const auto text = to_nsstring(path);
  if (!text) throw GpuError("[device::capture] expected a path in UTF-8");
  const auto descriptor = Retained<MTLCaptureDescriptor*>::adopt([MTLCaptureDescriptor new]);
  descriptor.get().captureObject = device;
  descriptor.get().destination = MTLCaptureDestinationGPUTraceDocument;
  descriptor.get().outputURL = [NSURL fileURLWithPath:text.get()];
  NSError* error = nil;
  if (![manager startCaptureWithDescriptor:descriptor.get() error:&error])
    throw GpuError("[device::capture] the capture does not start: ", describe(error), " (", path,
                   ")");
}

void end_capture() {
  MTLCaptureManager* manager = [MTLCaptureManager sharedCaptureManager];
  if (manager.isCapturing) [manager stopCapture];
}

}  // namespace moeflux::device::metal
