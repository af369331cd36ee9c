// What leak sanitizer is to pass over in a build with it: classes and selectors that GCC's libobjc
// registers and never frees. Objects of the stand-in are not among it.
extern "C" const char* __lsan_default_options();
extern "C" const char* __lsan_default_suppressions();
extern "C" const char* __lsan_default_options() {
  return "print_suppressions=0";
}
extern "C" const char* __lsan_default_suppressions() {
  return "leak:objc_malloc\nleak:objc_calloc\n";
}
