// Libraries, functions and pipelines. No source is compiled here: a library has the kernels that
// are registered and that its source defines, and `#error` makes it fail as a compiler would.
#include "classes.h"
#include "control.h"
#include "text.h"

using metal_standin::check;
using metal_standin::Fault;
using metal_standin::make_error;

@implementation StandinLibrary
- (StandinFunction*)find:(NSString*)name {
  check(name != nil, "newFunctionWithName: nil");
  const std::string text = name.UTF8String;
  if (metal_standin::fails(Fault::function)) return nil;
  const bool is_kernel = _source.find("kernel void " + text + "(") != std::string::npos;
  if (!is_kernel && _source.find("vertex float4 " + text + "(") == std::string::npos) return nil;
  StandinFunction* function = [StandinFunction new];
  function->_kernelName = text;
  function->_type = is_kernel ? MTLFunctionTypeKernel : MTLFunctionTypeVertex;
  return function;
}
- (id<MTLFunction>)newFunctionWithName:(NSString*)functionName {
  return [self find:functionName];
}
- (id<MTLFunction>)newFunctionWithName:(NSString*)name
                        constantValues:(MTLFunctionConstantValues*)constantValues
                                 error:(NSError**)error {
  StandinFunction* function = [self find:name];
  if (function) {
    function->_constants = ((StandinConstants*)constantValues)->_values;
  } else if (error) {
    *error = make_error(MTLLibraryErrorDomain, MTLLibraryErrorInternal,
                        std::string("no function ") + name.UTF8String);
  }
  return function;
}
@end

@implementation StandinFunction
- (MTLFunctionType)functionType {
  return _type;
}
- (NSString*)name {
  return metal_standin::make_string(_kernelName);
}
@end

@implementation StandinPipeline
- (NSUInteger)maxTotalThreadsPerThreadgroup {
  return _maxThreads;
}
- (NSUInteger)threadExecutionWidth {
  return _simdWidth;
}
@end
