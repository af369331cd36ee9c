// ScratchPlan: how much memory the CPU ops need for the widest stages of a model, so that all of it
// is booked once, at load. Pure arithmetic.
#pragma once
#include <cstdint>
#include <initializer_list>

#include "base/arena.h"
#include "ops/cpu/kernels.h"
#include "ops/ops.h"

namespace moeflux::ops::cpu {

// How activations are kept for a matrix under a precision, on these kernels.
InputFormat input_format(const quant::Shape& w, Precision precision, const Kernels& kernels);

// Of the matrices that read what their own stage has made (attention, delta net, SwiGLU) rather
// than a normed row: values of a wider range, which 8 bits a group would cost 1 % of the top-1
// choices of the demo model (benchmarks/precision.py).
constexpr Precision inner_precision(Precision precision) {
  return precision == Precision::int8 ? Precision::bfloat16 : precision;
}

class ScratchPlan {
 public:
  ScratchPlan(const Workload& work, Precision precision, const Kernels& kernels);

  Precision precision() const { return precision_; }
  uint64_t stage_floats() const { return stage_floats_; }    // buffers of a stage
  uint64_t record_bytes() const { return record_bytes_; }    // prepared rows of a stage's input
  uint64_t packed_bytes() const { return packed_bytes_; }    // the same rows, packed
  uint32_t hidden_rows() const { return hidden_rows_; }      // (row, expert) pairs at a time
  uint64_t hidden_floats() const { return hidden_floats_; }  // gate and up of these
  uint64_t hidden_record_bytes() const { return hidden_record_bytes_; }
  uint64_t hidden_packed_bytes() const { return hidden_packed_bytes_; }
  uint64_t span_state_floats() const { return span_state_floats_; }
  uint64_t rope_floats() const { return rope_floats_; }
  uint64_t worker_bytes() const { return worker_bytes_; }
  uint64_t bytes(const base::Arena& arena, int n_threads) const;  // that all of it will book

 private:
  struct Use {
    const quant::Shape* shape;
    Precision precision;
  };
  void add(const Attention& w);
  void add(const DeltaNet& w);
  void add(const GatedFfn& w);
  void add(const Workload::Moe& w);
  void add(const Linear& head, uint32_t logit_rows);
  void inputs(std::initializer_list<Use> uses);  // matrices that read the same rows
  void hidden(const quant::Shape& gate, const quant::Shape& down);
  void worker(const quant::Shape& w);

  const uint32_t rows_, context_;
  const Precision precision_;
  const Kernels& kernels_;
  uint64_t stage_floats_ = 0, record_bytes_ = 0, packed_bytes_ = 0, hidden_floats_ = 0,
           hidden_record_bytes_ = 0, hidden_packed_bytes_ = 0, span_state_floats_ = 0,
           rope_floats_ = 0, worker_bytes_ = 0;
  uint32_t hidden_rows_ = 0;
};

}  // namespace moeflux::ops::cpu
