// The capture manager: a file in place of the document that Metal writes.
#include <cstdlib>
#include <filesystem>
#include <fstream>

#include "classes.h"
#include "control.h"
#include "text.h"

using metal_standin::check;

@implementation MTLCaptureDescriptor
@dynamic captureObject, destination, outputURL;
+ (instancetype)alloc {
  return self == [MTLCaptureDescriptor class] ? [StandinCaptureDescriptor alloc] : [super alloc];
}
@end

@implementation StandinCaptureDescriptor
- (id)captureObject {
  return _captureObject;
}
- (void)setCaptureObject:(id)object {
  [object retain];
  [_captureObject release];
  _captureObject = object;
}
- (MTLCaptureDestination)destination {
  return _destination;
}
- (void)setDestination:(MTLCaptureDestination)destination {
  _destination = destination;
}
- (NSURL*)outputURL {
  return _outputURL;
}
- (void)setOutputURL:(NSURL*)url {
  [url retain];
  [_outputURL release];
  _outputURL = url;
}
- (void)dealloc {
  [_captureObject release];
  [_outputURL release];
  [super dealloc];
}
@end

namespace {
bool capturing = false;  // by the thread that tests
}

@implementation MTLCaptureManager
+ (MTLCaptureManager*)sharedCaptureManager {
  static MTLCaptureManager* manager = [] {
    metal_standin::count_object(-1);  // never released
    return [MTLCaptureManager new];
  }();
  return manager;
}
- (BOOL)supportsDestination:(MTLCaptureDestination)destination {
  const char* enabled = std::getenv("MTL_CAPTURE_ENABLED");
  return destination == MTLCaptureDestinationGPUTraceDocument && enabled &&
         enabled == std::string("1");
}
- (BOOL)startCaptureWithDescriptor:(MTLCaptureDescriptor*)descriptor error:(NSError**)error {
  check(!capturing, "startCapture: while capturing");
  check(descriptor.captureObject && descriptor.outputURL,
        "startCapture: of nothing, or to nowhere");
  const std::filesystem::path path = ((StandinURL*)descriptor.outputURL)->path_.UTF8String;
  std::ofstream document;
  if (path.extension() == ".gputrace" && !std::filesystem::exists(path)) document.open(path);
  if (!document.is_open()) {
    if (error)
      *error = metal_standin::make_error(@"MTLCaptureErrorDomain", 3, "Invalid output URL");
    return NO;
  }
  capturing = true;
  return YES;
}
- (void)stopCapture {
  check(capturing, "stopCapture: while not capturing");
  capturing = false;
}
- (BOOL)isCapturing {
  return capturing;
}
@end
