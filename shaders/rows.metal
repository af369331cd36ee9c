// Rows of activations: to and from the experts that compute them.
#include "arguments.h"
#include "combine.h"

// out[i] = x[rows[i]]; x (.., dim), rows (n), out (n, dim). A thread per element.
/// @elements x n > 0 ? (maxof(rows) + 1) * dim : 0
/// @elements rows n
/// @elements out n * dim
/// @threadgroup any
/// @default_threadgroup 256
/// @grid n * dim
/// @require grid >= n * dim
kernel void gather_rows_f32(device const float* x [[buffer(0)]],
                            device const uint* rows [[buffer(1)]],
                            device float* out [[buffer(2)]],
                            constant uint& dim [[buffer(3)]],
                            constant uint& n [[buffer(4)]],
                            uint i [[thread_position_in_grid]]) {
  if (i >= n * dim) return;
  out[i] = x[ulong(rows[i / dim]) * dim + i % dim];
}

// out[rows[i]] = x[i]; x (n, dim), rows (n) without repetition, out (.., dim): other rows stay. A
// thread per element.
/// @elements x n * dim
/// @elements rows n
/// @elements out n > 0 ? (maxof(rows) + 1) * dim : 0
/// @threadgroup any
/// @default_threadgroup 256
/// @grid n * dim
/// @require grid >= n * dim
kernel void scatter_rows_f32(device const float* x [[buffer(0)]],
                             device const uint* rows [[buffer(1)]],
                             device float* out [[buffer(2)]],
                             constant uint& dim [[buffer(3)]],
                             constant uint& n [[buffer(4)]],
                             uint i [[thread_position_in_grid]]) {
  if (i >= n * dim) return;
  out[ulong(rows[i / dim]) * dim + i % dim] = x[i];
}

// x[t] += sum over k < top_k of weights[t, k] * expert_out[t, k] + gate[t] * shared[t], in that
// order; gate = sigmoid(gates[t]) where has_gate, else 1, and without the last term unless
// has_shared. Unless `adds`, that becomes x, whatever it was. x (n, dim), weights (n, top_k), expert_out (n, top_k, dim), shared (n, dim), gates
// (n). A thread per element.
/// @elements x n * dim
/// @elements weights n * top_k
/// @elements expert_out n * top_k * dim
/// @elements shared has_shared * n * dim
/// @elements gates has_shared * has_gate * n
/// @threadgroup any
/// @default_threadgroup 256
/// @grid n * dim
/// @require has_shared <= 1 && has_gate <= 1 && adds <= 1
/// @require grid >= n * dim
kernel void moe_combine_f32(device float* x [[buffer(0)]],
                            device const float* weights [[buffer(1)]],
                            device const float* expert_out [[buffer(2)]],
                            device const float* shared [[buffer(3)]],
                            device const float* gates [[buffer(4)]],
                            constant MoeCombineArgs& args [[buffer(5)]],
                            uint i [[thread_position_in_grid]]) {
  if (i >= args.n * args.dim) return;
  const uint token = i / args.dim;
  const ulong pair = ulong(token) * args.top_k;
  const bool has_shared = args.has_shared != 0;
  const ulong shared_row = has_shared ? ulong(token) * args.dim : 0;
  const float gate = has_shared && args.has_gate != 0 ? sigmoid(gates[token]) : 1.0f;
  const float sum = combined(weights + pair, expert_out + pair * args.dim, args.top_k,
                             shared + shared_row, has_shared, gate, args.dim, i % args.dim);
  x[i] = args.adds != 0 ? x[i] + sum : sum;
}
