"""Errors in the GPU path of a model, and the test that must notice each."""

from metal_mutants import Mutant

GPU = "csrc/ops/gpu/"
ENGINE = "csrc/engine/"
ORDER = "csrc/device/host/order.cpp"

ANY_ORDER = "a model's bits depend on nothing but its input"
PINS = "a slot keeps its expert until the command buffers"
FAULTS = "a fault of the device at any call"
COUNTS = "one wait a MoE layer and one a token"

# Kernels that tests/cpp/tiny_model.h runs. Without what orders the next dispatch behind one of
# them, the host device, which takes any order that it may, computes something else.
KERNELS = (
    "attention_prefill_f32",
    "attn_scores_batched",
    "attn_softmax_batched",
    "attn_values_batched",
    "compute_decay_beta_f32",
    "conv1d_f32",
    "embed_f32_f32",
    "experts_down_bf16_f32",
    "experts_gate_up_bf16_f32",
    "gated_delta_net_f32",
    "gated_rms_norm_f32",
    "gather_rows_f32",
    "l2_norm_f32",
    "matmul_f32_f32",
    "matvec_f32_f32",
    "moe_combine_f32",
    "norm_rope_f32",
    "qmatmul_bf16_f32",
    "residual_add",
    "rms_norm_f32",
    "scatter_rows_f32",
    "sigmoid_gate",
    "swiglu_fused_batched",
    "swiglu_fused_vec4",
)

MUTANTS = (
    *(
        Mutant(
            ORDER,
            "data + touched[i], bindings[i].writable});",
            "data + (bindings[i].writable && "
            f'std::string_view(dispatch.pipeline->info().name) == "{kernel}" ? 0 : touched[i]), '
            "bindings[i].writable});",
            ANY_ORDER,
        )
        for kernel in KERNELS
    ),
    Mutant(  # command buffers in another order than that of their commits
        "csrc/device/host/queue.cpp",
        "batches_.push_back(std::move(batch));",
        "batches_.push_front(std::move(batch));",
        ANY_ORDER,
    ),
    # pins
    Mutant(
        ENGINE + "moe.cpp",
        "pipeline_.hold(std::move(p.pin));",
        "store::ExpertStore::Pin(std::move(p.pin));",
        PINS,
    ),
    Mutant(
        ENGINE + "pipeline.cpp",
        "flight.pins = std::move(held_);",
        "",
        PINS,
    ),
    Mutant(
        ENGINE + "pipeline.cpp",
        "flights_.front().ticket->done()) {\n    flights_.front().ticket->wait();",
        "true) {\n    ",
        ANY_ORDER,
    ),
    Mutant(
        ENGINE + "pipeline.cpp",
        "for (reap(); !flights_.empty(); reap()) wait();",
        "",
        ANY_ORDER,
    ),
    Mutant(ENGINE + "moe.cpp", "|| !p.pin.ready()", "", ANY_ORDER),
    # sessions
    Mutant(
        ENGINE + "session.cpp",
        "first ? layer.state[committed_] : working",
        "working",
        "tokens one by one have the bits of a prompt in passes",
    ),
    Mutant(
        ENGINE + "session.cpp",
        "const base::Memory& working = layer.state[committed_ ^ 1];",
        "const base::Memory& working = layer.state[committed_];",
        FAULTS,
    ),
    # failures
    Mutant(ENGINE + "pipeline.cpp", "  held_.clear();\n}", "}", FAULTS),
    Mutant(ENGINE + "pipeline.cpp", "  ops_.abandon();\n", "",
           "what a failed step has recorded"),
    Mutant(ENGINE + "pipeline.cpp", "  flights_.clear();\n", "", FAULTS),
    Mutant(ENGINE + "engine.cpp", "    pipeline_.drain();\n", "", FAULTS),
    Mutant(
        ENGINE + "pipeline.cpp",
        "while (!flight.ticket->done()) bell_->wait(kPoll);",
        "",
        "an interrupt while the engine waits",
    ),
    Mutant(GPU + "recorder.cpp", "void wait() override { commands_->wait(); }",
           "void wait() override {}", FAULTS),
    Mutant(GPU + "recorder.cpp", "void Recorder::abandon() {\n  commands_.reset();",
           "void Recorder::abandon() {", "counts are of what was submitted"),
    # commits and waits
    Mutant(
        ENGINE + "moe.cpp",
        "(!handed_over || !pass.is_decode())",
        "true",
        COUNTS,
    ),
    Mutant(
        ENGINE + "forward.cpp",
        "pipeline_.finish();  // the one wait",
        "pipeline_.finish();\n      pipeline_.finish();  // the one wait",
        COUNTS,
    ),
    # lists and memory
    Mutant(
        GPU + "staging.cpp",
        "flights_.front().commands->done()",
        "true",
        "lists of many submits go through a ring",
    ),
    Mutant(
        GPU + "staging.cpp",
        "  end_ += skipped;\n",
        "",
        "lists of many submits go through a ring",
    ),
    Mutant(
        GPU + "device_arena.cpp",
        "block.step = window / 2 / limits.page_bytes",
        "block.step = window / limits.page_bytes",
        "every row of a matrix lies in one",
    ),
    Mutant(
        GPU + "device_arena.cpp",
        "const uint64_t offset = found.offset - found.index * block.step;",
        "const uint64_t offset = found.offset;",
        "every row of a matrix lies in one",
    ),
    Mutant(
        GPU + "device_arena.cpp",
        "budget_bytes > advised",
        "budget_bytes > 2 * advised",
        "a budget above the working set",
    ),
    Mutant(
        GPU + "device_arena.cpp",
        "  blocks_.erase(data);\n",
        "  (void)data;\n",
        "memory given back leaves",
    ),
    Mutant(
        GPU + "device_arena.cpp",
        "access == Access::write && block.buffers.size() > 1",
        "false",
        "a block under several buffers is read only",
    ),
    Mutant(
        GPU + "device_arena.cpp",
        "booked_bytes(nbytes) > most",
        "booked_bytes(nbytes) > 2 * most",
        "beyond the largest buffer is an error of load",
    ),
    Mutant(
        GPU + "gpu_ops.cpp",
        "  compile(work);\n",
        "",
        "kernels are compiled at load",
    ),
    Mutant(
        GPU + "pipelines.cpp",
        "    if (poll_) poll_();\n",
        "",
        "an interrupt while kernels are compiled",
    ),
    Mutant(
        GPU + "attention.cpp",
        "    part.position += first;\n",
        "",
        "cut into dispatches of bounded work",
    ),
    Mutant(
        GPU + "attention.cpp",
        "groups * kQueries",
        "groups * kQueries + 1",
        "cut into dispatches of bounded work",
    ),
    Mutant(
        "csrc/store/expert_store.cpp",
        "free_bytes() >= arena_.booked_bytes(slot_bytes_))",
        "free_bytes() >= slot_bytes_)",
        "slots on pages larger than a slot",
    ),
    Mutant(
        ENGINE + "engine.cpp",
        "arena.booked_bytes(layer.slot_bytes())",
        "layer.slot_bytes()",
        "slots on pages larger than a slot",
    ),
)  # fmt: skip

# What no test of values can see, and why.
UNSEEN: tuple[tuple[str, str], ...] = (
    (
        "the order behind router_top_k_f32",
        "nothing of its command buffer reads what it writes: the engine waits for that command "
        "buffer, and moe_combine_f32 comes in a later one (the order of those is a mutant above)",
    ),
    (
        "the order behind kernels that tiny_model.h does not run (other formats, other shapes)",
        "the order is taken from the binding table, the same for all, and a kernel that writes an "
        "argument which the table has as read-only does not compile: it is const",
    ),
    (
        "the wait inside Staging::put",
        "without it put() asks again at once instead of sleeping: the same lists, later",
    ),
)
