// The functions of GCC's libobjc that the stand-in calls, declared here: the library's own headers
// would bring a BOOL of another type.
#pragma once
#import <Foundation/Foundation.h>

extern "C" {
typedef void (*IMP)(void);
typedef struct objc_method* Method;
Class class_getSuperclass(Class cls);
size_t class_getInstanceSize(Class cls);
const char* class_getName(Class cls);
Method class_getInstanceMethod(Class cls, SEL selector);
IMP method_getImplementation(Method method);
SEL sel_registerName(const char* name);
const char* sel_getName(SEL selector);
// Asked for the method to run when a class has none of that name.
extern IMP (*__objc_msg_forward2)(id, SEL);
}
