// The classes that Metal's callers make themselves. As in Metal, they are abstract in name: alloc
// gives an instance of the class behind.
#include "classes.h"
#include "control.h"

using metal_standin::check;

@implementation MTLCompileOptions
@dynamic languageVersion, fastMathEnabled, mathMode;
+ (instancetype)alloc {
  return self == [MTLCompileOptions class] ? [StandinCompileOptions alloc] : [super alloc];
}
@end

@implementation StandinCompileOptions
- (MTLLanguageVersion)languageVersion {
  return MTLLanguageVersion(_options.language_version);
}
- (void)setLanguageVersion:(MTLLanguageVersion)version {
  _options.language_version = version;
}
- (BOOL)fastMathEnabled {
  return _options.fast_math;
}
- (void)setFastMathEnabled:(BOOL)enabled {
  _options.fast_math = enabled;
}
- (MTLMathMode)mathMode {
  return MTLMathMode(_options.math_mode);
}
- (void)setMathMode:(MTLMathMode)mode {
  _options.math_mode = mode;
}
@end

@implementation MTLFunctionConstantValues
+ (instancetype)alloc {
  return self == [MTLFunctionConstantValues class] ? [StandinConstants alloc] : [super alloc];
}
- (void)setConstantValue:(const void*)value type:(MTLDataType)type atIndex:(NSUInteger)index {
}
@end

@implementation StandinConstants
- (void)setConstantValue:(const void*)value type:(MTLDataType)type atIndex:(NSUInteger)index {
  check(value && type == MTLDataTypeUInt, "setConstantValue: nil, or of a type not modelled here");
  _values[index] = *static_cast<const uint32_t*>(value);
}
@end

@implementation MTLComputePipelineDescriptor
@dynamic computeFunction, maxTotalThreadsPerThreadgroup;
+ (instancetype)alloc {
  return self == [MTLComputePipelineDescriptor class] ? [StandinPipelineDescriptor alloc]
                                                      : [super alloc];
}
@end

@implementation StandinPipelineDescriptor
- (id<MTLFunction>)computeFunction {
  return _function;
}
- (void)setComputeFunction:(id<MTLFunction>)function {
  [function retain];
  [_function release];
  _function = function;
}
- (NSUInteger)maxTotalThreadsPerThreadgroup {
  return _maxThreads;
}
- (void)setMaxTotalThreadsPerThreadgroup:(NSUInteger)threads {
  _maxThreads = threads;
}
- (void)dealloc {
  [_function release];
  [super dealloc];
}
@end
