"""Errors in the Metal device and in the stand-in, and the test that must notice each."""

from __future__ import annotations

from dataclasses import dataclass

DEVICE = "csrc/device/metal/"
STANDIN = "tests/metal_standin/src/"


@dataclass(frozen=True)
class Mutant:
    """In `file`, the only `old` becomes `new`; the name of the test that fails contains `test`."""

    file: str
    old: str
    new: str
    test: str


MUTANTS = (
    Mutant(
        DEVICE + "commands.mm",
        "~Encoding() { end(); }",
        "~Encoding() {}",
        "a dispatch computes",
    ),
    Mutant(
        DEVICE + "commands.mm",
        "buffer ? buffer->get() : context_.unbound.get()",
        "buffer->get()",
        "may stay empty",
    ),
    Mutant(
        DEVICE + "commands.mm",
        "raise_events(*flight.recording);",
        "",
        "nobody waits for ever",
    ),
    Mutant(
        DEVICE + "commands.mm",
        "flight.recording.reset();",
        "",
        "let go when their commands have completed",
    ),
    Mutant(
        DEVICE + "commands.mm",
        "offset:slice.offset",
        "offset:0",
        "a slice starts at its offset",
    ),
    Mutant(
        DEVICE + "commands.mm",
        "void operator()(const Recording::Signal& signal) {\n    end();",
        "void operator()(const Recording::Signal& signal) {",
        "an event orders commands",
    ),
    Mutant(
        DEVICE + "commands.mm",
        "computeCommandEncoder];",
        "computeCommandEncoderWithDispatchType:MTLDispatchTypeConcurrent];",
        "sees what those before it wrote",
    ),
    Mutant(
        DEVICE + "commands.mm",
        "const Pool pool;\n  // Unretained",
        "// Unretained",
        "a dispatch computes",
    ),
    Mutant(
        DEVICE + "library.mm",
        "options.get().fastMathEnabled = NO;",
        "",
        "safe math",
    ),
    Mutant(
        DEVICE + "library.mm",
        "options.get().mathMode = MTLMathModeSafe;",
        "options.get().mathMode = MTLMathModeFast;",
        "safe math",
    ),
    Mutant(
        DEVICE + "library.mm",
        "maxTotalThreadsPerThreadgroup = largest_threadgroup(info, context_->limits)",
        "maxTotalThreadsPerThreadgroup = 0 * largest_threadgroup(info, context_->limits)",
        "compiled on first request",
    ),
    Mutant(
        DEVICE + "library.mm",
        "atIndex:info.constants[i].index",
        "atIndex:i",
        "known by name and constants",
    ),
    Mutant(
        DEVICE + "library.mm",
        "pipelines_.emplace(key, pipeline);",
        "",
        "compiled on first request",
    ),
    Mutant(
        DEVICE + "buffer.mm",
        "if (on_free) on_free();",
        "",
        "given back once",
    ),
    Mutant(
        DEVICE + "retained.h",
        "~Retained() { [object_ release]; }",
        "~Retained() {}",
        "a device tells its kind",
    ),
    Mutant(
        DEVICE + "device.mm",
        "std::min<uint64_t>(device.maxBufferLength, options.max_buffer_bytes)",
        "device.maxBufferLength",
        "limits can be made smaller",
    ),
    Mutant(
        "csrc/device/completion.cpp",
        "    done_ = true;\n  }\n  run_handlers();",
        "  }\n  run_handlers();\n  done_ = true;",
        "finds the commands done",
    ),
    Mutant(
        STANDIN + "program.cpp",
        "std::swap(order[i - 1], order[random_below(i)]);",
        "{}",
        "in any order",
    ),
    Mutant(
        STANDIN + "encoder.mm",
        "!_concurrent || _newGroup",
        "true",
        "no barrier between are a hazard",
    ),
    Mutant(
        STANDIN + "encoder.mm",
        "  _newGroup = YES;\n}",
        "}",
        "a barrier parts",
    ),
    Mutant(
        STANDIN + "accesses.cpp",
        "(a.writes || b.writes)",
        "(a.writes && b.writes)",
        "write and read with no barrier",
    ),
    Mutant(
        STANDIN + "accesses.cpp",
        "a.begin < b.end && b.begin < a.end",
        "a.begin == b.begin",
        "found past others",
    ),
    Mutant(
        STANDIN + "buffer.mm",
        "if (_storage->in_flight > 0) {",
        "if (false) {",
        "go away in flight",
    ),
    Mutant(
        STANDIN + "commands.mm",
        "if (std::exchange(_counted, NO)) _queue->open--;",
        "",
        "any number of commands",
    ),
)
