// Root-mean-square norms: x * rsqrt(mean(x^2) + eps), in two steps and of q and k together.
#include "../common.h"

// sum_sq[0] = sum of x^2; x (dim). One threadgroup, whose threads stride over x.
/// @elements x dim
/// @elements sum_sq 1
/// @threadgroup multiple of 32
/// @default_threadgroup 256
/// @grid threads
/// @require grid == threads
kernel void rms_norm_sum_sq(device const float* x [[buffer(0)]],
                            device float* sum_sq [[buffer(1)]],
                            constant uint& dim [[buffer(2)]],
                            uint thread_index [[thread_index_in_threadgroup]],
                            uint threads [[threads_per_threadgroup]],
                            uint lane [[thread_index_in_simdgroup]],
                            uint simdgroup [[simdgroup_index_in_threadgroup]],
                            uint simdgroups [[simdgroups_per_threadgroup]]) {
  threadgroup float scratch[kMaxSimdgroups];
  float sum = 0.0f;
  for (uint i = thread_index; i < dim; i += threads) sum = fma(x[i], x[i], sum);
  sum = threadgroup_sum(sum, scratch, lane, simdgroup, simdgroups);
  if (thread_index == 0) sum_sq[0] = sum;
}

// out = x * rsqrt(sum_sq / dim + eps) * weight; x, weight, out (dim), sum_sq (1) from
// rms_norm_sum_sq. A thread per element.
/// @elements x dim
/// @elements weight dim
/// @elements sum_sq 1
/// @elements out dim
/// @threadgroup any
/// @default_threadgroup 256
/// @grid dim
/// @require grid >= dim
template <typename T>
kernel void norm_apply(device const float* x [[buffer(0)]],
                       device const T* weight [[buffer(1)]],
                       device const float* sum_sq [[buffer(2)]],
                       device float* out [[buffer(3)]],
                       constant uint& dim [[buffer(4)]],
                       constant float& eps [[buffer(5)]],
                       uint i [[thread_position_in_grid]]) {
  if (i >= dim) return;
  out[i] = x[i] * precise::rsqrt(sum_sq[0] / float(dim) + eps) * to_f32(weight[i]);
}

template [[host_name("rms_norm_apply")]] kernel decltype(norm_apply<float>) norm_apply<float>;
template [[host_name("rms_norm_apply_bf16")]] kernel decltype(norm_apply<bf16>) norm_apply<bf16>;

// For each head: q = rms_norm(q) * inv_scale^2, k = rms_norm(k) * inv_scale, eps 1e-6, no weight;
// q, k (Hk, key_dim). A threadgroup per head; a thread writes only what it alone has read.
/// @elements q groups * key_dim
/// @elements k groups * key_dim
/// @threadgroup multiple of 32
/// @default_threadgroup 128
/// @grid len(q) / key_dim * threads
/// @require grid % threads == 0
kernel void rms_norm_qk(device float* q [[buffer(0)]],
                        device float* k [[buffer(1)]],
                        constant uint& key_dim [[buffer(2)]],
                        constant float& inv_scale [[buffer(3)]],
                        uint head [[threadgroup_position_in_grid]],
                        uint thread_index [[thread_index_in_threadgroup]],
                        uint threads [[threads_per_threadgroup]],
                        uint lane [[thread_index_in_simdgroup]],
                        uint simdgroup [[simdgroup_index_in_threadgroup]],
                        uint simdgroups [[simdgroups_per_threadgroup]]) {
  threadgroup float2 scratch[kMaxSimdgroups];
  const float eps = 1e-6f;  // of the models' l2norm, not a configuration value
  device float* q_head = q + ulong(head) * key_dim;
  device float* k_head = k + ulong(head) * key_dim;
  float2 sum = float2(0.0f, 0.0f);
  for (uint i = thread_index; i < key_dim; i += threads) {
    const float2 value = float2(q_head[i], k_head[i]);
    sum = fma(value, value, sum);
  }
  sum = threadgroup_sum(sum, scratch, lane, simdgroup, simdgroups);
  const float q_scale = precise::rsqrt(sum.x / float(key_dim) + eps) * inv_scale * inv_scale;
  const float k_scale = precise::rsqrt(sum.y / float(key_dim) + eps) * inv_scale;
  for (uint i = thread_index; i < key_dim; i += threads) {
    q_head[i] *= q_scale;
    k_head[i] *= k_scale;
  }
}
