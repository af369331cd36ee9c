// Sums of expert outputs, in ascending order of the experts given.
#include "../common.h"

// hidden_out = h_mid + sum over k < K of params[k] * expert_out<k> + sigmoid(params[16]) *
// shared_out; all (dim). A thread per element; buffers past K are not touched and may be missing.
/// @elements h_mid dim
/// @elements shared_out dim
/// @elements hidden_out dim
/// @elements expert_out[16] K > # ? dim : 0
/// @elements params 18
/// @threadgroup any
/// @default_threadgroup 256
/// @grid dim
/// @require K <= 16
/// @require grid >= dim
kernel void moe_combine_residual(device const float* h_mid [[buffer(0)]],
                                 device const float* shared_out [[buffer(1)]],
                                 device float* hidden_out [[buffer(2)]],
                                 device const float* expert_out0 [[buffer(3)]],
                                 device const float* expert_out1 [[buffer(4)]],
                                 device const float* expert_out2 [[buffer(5)]],
                                 device const float* expert_out3 [[buffer(6)]],
                                 device const float* expert_out4 [[buffer(7)]],
                                 device const float* expert_out5 [[buffer(8)]],
                                 device const float* expert_out6 [[buffer(9)]],
                                 device const float* expert_out7 [[buffer(10)]],
                                 device const float* expert_out8 [[buffer(11)]],
                                 device const float* expert_out9 [[buffer(12)]],
                                 device const float* expert_out10 [[buffer(13)]],
                                 device const float* expert_out11 [[buffer(14)]],
                                 device const float* expert_out12 [[buffer(15)]],
                                 device const float* expert_out13 [[buffer(16)]],
                                 device const float* expert_out14 [[buffer(17)]],
                                 device const float* expert_out15 [[buffer(18)]],
                                 device const float* params [[buffer(19)]],
                                 constant uint& dim [[buffer(20)]],
                                 constant uint& K [[buffer(21)]],
                                 uint i [[thread_position_in_grid]]) {
  if (i >= dim) return;
  float sum = 0.0f;
  if (K > 0) sum = fma(params[0], expert_out0[i], sum);
  if (K > 1) sum = fma(params[1], expert_out1[i], sum);
  if (K > 2) sum = fma(params[2], expert_out2[i], sum);
  if (K > 3) sum = fma(params[3], expert_out3[i], sum);
  if (K > 4) sum = fma(params[4], expert_out4[i], sum);
  if (K > 5) sum = fma(params[5], expert_out5[i], sum);
  if (K > 6) sum = fma(params[6], expert_out6[i], sum);
  if (K > 7) sum = fma(params[7], expert_out7[i], sum);
  if (K > 8) sum = fma(params[8], expert_out8[i], sum);
  if (K > 9) sum = fma(params[9], expert_out9[i], sum);
  if (K > 10) sum = fma(params[10], expert_out10[i], sum);
  if (K > 11) sum = fma(params[11], expert_out11[i], sum);
  if (K > 12) sum = fma(params[12], expert_out12[i], sum);
  if (K > 13) sum = fma(params[13], expert_out13[i], sum);
  if (K > 14) sum = fma(params[14], expert_out14[i], sum);
  if (K > 15) sum = fma(params[15], expert_out15[i], sum);
  sum = fma(sigmoid(params[16]), shared_out[i], sum);
  hidden_out[i] = h_mid[i] + sum;
}

// out = sum over k < K of weights[k] * expert_outs[k]; expert_outs (K, dim), weights (K),
// out (dim). A thread per element.
/// @elements expert_outs K * dim
/// @elements weights K
/// @elements out dim
/// @threadgroup any
/// @default_threadgroup 256
/// @grid dim
/// @require grid >= dim
kernel void weighted_sum(device const float* expert_outs [[buffer(0)]],
                         device const float* weights [[buffer(1)]],
                         device float* out [[buffer(2)]],
                         constant uint& K [[buffer(3)]],
                         constant uint& dim [[buffer(4)]],
                         uint i [[thread_position_in_grid]]) {
  if (i >= dim) return;
  float sum = 0.0f;
  for (uint k = 0; k < K; ++k) sum = fma(weights[k], expert_outs[ulong(k) * dim + i], sum);
  out[i] = sum;
}
