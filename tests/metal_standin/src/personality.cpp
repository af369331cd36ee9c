// With -fobjc-runtime=gcc, clang gives every Objective-C++ function libobjc's personality routine,
// which passes over C++ catch clauses, so that a C++ exception ends in std::terminate. This one,
// linked once into each binary that has such functions, puts C++'s in its place. It knows no
// @catch(Class*): host sources use C++ exceptions only. On a Mac none of this is needed.
#include <unwind.h>

extern "C" {
_Unwind_Reason_Code __gxx_personality_v0(int version, _Unwind_Action actions,
                                         _Unwind_Exception_Class exception_class,
                                         _Unwind_Exception* exception, _Unwind_Context* context);

__attribute__((visibility("hidden"))) _Unwind_Reason_Code __gnu_objc_personality_v0(
    int version, _Unwind_Action actions, _Unwind_Exception_Class exception_class,
    _Unwind_Exception* exception, _Unwind_Context* context) {
  return __gxx_personality_v0(version, actions, exception_class, exception, context);
}
}
