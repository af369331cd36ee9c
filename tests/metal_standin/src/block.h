// The stand-in's <Block.h>.
#pragma once
#pragma GCC visibility push(default)
extern "C" {
void* _Block_copy(const void* block);
void _Block_release(const void* block);
}
#pragma GCC visibility pop
#define Block_copy(...) ((__typeof(__VA_ARGS__))_Block_copy((const void*)(__VA_ARGS__)))
#define Block_release(...) _Block_release((const void*)(__VA_ARGS__))
