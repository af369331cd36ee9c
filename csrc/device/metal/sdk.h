// What the SDK that these sources are compiled with declares. @available guards the run, not the
// build: Xcode 15 brings the SDK of macOS 14. For .mm files only.
#pragma once
#import <Foundation/Foundation.h>

// MTLMathMode, MTLResidencySet
#define MOEFLUX_SDK_15 (__MAC_OS_X_VERSION_MAX_ALLOWED >= 150000)
