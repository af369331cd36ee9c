#include "device/metal/commands.h"

#import <Metal/Metal.h>

#include <algorithm>
#include <span>
#include <variant>
#include <vector>

#include "base/error.h"
#include "device/check.h"
#include "device/metal/advice.h"
#include "device/metal/buffer.h"
#include "device/metal/library.h"
#include "device/metal/text.h"

namespace moeflux::device::metal {
namespace {

MTLSize mtl_size(const Size& size) {
  return MTLSizeMake(size[0], size[1], size[2]);
}

// Memory and pipelines stay with the device that made them.
template <class Derived, class Base>
void check_own(const Context& context, const std::shared_ptr<Base>& object, const char* what) {
  const auto* derived = dynamic_cast<const Derived*>(object.get());
  if (!derived || !derived->belongs_to(context))
    throw FormatError("[device::Metal] ", what, " of another device");
}

// Encodes the dispatches of a recording, in order. Holds at most one encoder and ends it, whatever
// happens: Metal stops the process when one goes away open.
class Encoding {
 public:
  Encoding(const Context& context, const Recording& recording, id<MTLCommandBuffer> buffer)
      : context_(context), recording_(recording), buffer_(buffer) {}
  Encoding(const Encoding&) = delete;
  Encoding& operator=(const Encoding&) = delete;
  ~Encoding() { [encoder_ endEncoding]; }

  void encode(const Recording::Dispatch& dispatch) {
    if (!encoder_) encoder_ = [buffer_ computeCommandEncoder];  // serial: each sees those before
    if (!encoder_) throw GpuError("[device::Metal] no encoder for a command buffer");
    const auto& pipeline = static_cast<const MetalPipeline&>(*dispatch.pipeline);
    [encoder_ setComputePipelineState:pipeline.get()];
    const auto args = recording_.args(dispatch);
    const size_t first_field = std::min<size_t>(pipeline.info().first_field, args.size());
    for (size_t i = 0; i < first_field; ++i) bind(args[i], i);
    bind_fields(args.subspan(first_field), first_field);
    // An argument that nobody gave is little memory, not a null pointer.
    for (size_t i = args.size(); pipeline.info().is_own && i < kMostBindings; ++i) bind(Slice{}, i);
    [encoder_ dispatchThreads:mtl_size(dispatch.grid)
        threadsPerThreadgroup:mtl_size(dispatch.threadgroup)];
  }

 private:
  void bind(const Argument& argument, NSUInteger index) {
    if (const auto* scalar = std::get_if<Scalar>(&argument)) {
      [encoder_ setBytes:&scalar->bits length:sizeof scalar->bits atIndex:index];
      return;
    }
    const auto& slice = std::get<Slice>(argument);
    const auto* buffer = static_cast<const MetalBuffer*>(slice.buffer.get());
    [encoder_ setBuffer:buffer ? buffer->get() : context_.unbound.get()
                 offset:slice.offset
                atIndex:index];
    if (buffer) make_resident(*buffer);
  }

  // What a kernel reaches by address Metal does not see, and would not keep in place.
  void make_resident(const MetalBuffer& list) {
    if (list.reaches().empty() || std::ranges::find(resident_, &list) != resident_.end()) return;
    std::vector<id<MTLResource>> all;
    for (const auto& each : list.reaches())
      all.push_back(static_cast<const MetalBuffer&>(*each).get());
    [encoder_ useResources:all.data() count:all.size() usage:MTLResourceUsageRead];
    resident_.push_back(&list);
  }

  void bind_fields(std::span<const Argument> fields, NSUInteger index) {
    std::vector<uint32_t> words;
    for (const Argument& field : fields) words.push_back(std::get<Scalar>(field).bits);
    if (!words.empty())
      [encoder_ setBytes:words.data() length:words.size() * sizeof words[0] atIndex:index];
  }

  const Context& context_;
  const Recording& recording_;
  id<MTLCommandBuffer> buffer_;
  id<MTLComputeCommandEncoder> encoder_ = nil;  // autoreleased; open while not nil
  std::vector<const MetalBuffer*> resident_;    // lists whose buffers the encoder has
};

std::string kernels_of(const Recording& recording) {
  std::vector<std::string> names;
  for (const auto& dispatch : recording.dispatches()) {
    const std::string name = dispatch.pipeline->info().name;
    if (std::ranges::find(names, name) == names.end()) names.push_back(name);
  }
  std::string text;
  for (const auto& name : names) text += (text.empty() ? "" : ", ") + name;
  return text;
}

std::string what_failed(NSError* error, const Recording& recording) {
  const std::string text = describe(error);
  const std::string_view hint = advice(error.code, text);
  return cat("[device::Metal] a command buffer failed: ", text, hint.empty() ? "" : ". ", hint,
             " (kernels: ", kernels_of(recording), ")");
}

// The place in the queue that a command buffer takes, until it has ended or was never committed.
class Place {
 public:
  explicit Place(std::shared_ptr<const Context> context)
      : context_(std::move(context)), queue_(context_->queue->take()) {}
  Place(const Place&) = delete;
  Place& operator=(const Place&) = delete;
  ~Place() { leave(false); }

  id<MTLCommandQueue> queue() const { return queue_.get(); }
  void leave(bool failed) {
    if (!context_) return;
    context_->queue->ended(failed);
    queue_ = {};
    context_.reset();
  }

 private:
  std::shared_ptr<const Context> context_;  // null: it has been left
  Retained<id<MTLCommandQueue>> queue_;
};

// What a committed command buffer takes along; shared with the block that Metal calls at its end.
struct InFlight {
  InFlight(std::unique_ptr<const Recording> recording, std::shared_ptr<Completion> completion,
           std::unique_ptr<Place> place)
      : recording(std::move(recording)),
        completion(std::move(completion)),
        place(std::move(place)) {}
  std::unique_ptr<const Recording> recording;
  std::shared_ptr<Completion> completion;
  std::unique_ptr<Place> place;
};

constexpr uint64_t kRan = 1;  // ns

// On a thread of Metal's.
void finish(id<MTLCommandBuffer> buffer, InFlight& flight) {
  const Pool pool;
  std::string error;
  const CFTimeInterval seconds = buffer.GPUEndTime - buffer.GPUStartTime;
  uint64_t gpu_ns = seconds > 0 ? uint64_t(seconds * 1e9) : 0;
  if (buffer.status == MTLCommandBufferStatusError) {
    error = what_failed(buffer.error, *flight.recording);
    // 0 is what never ran, and this has, whether Metal tells its time or not.
    if (was_too_long(buffer.error.code, describe(buffer.error))) gpu_ns = std::max(gpu_ns, kRan);
  }
  flight.recording.reset();             // so the buffers are free before anybody hears of the end
  flight.place->leave(!error.empty());  // so that whoever tries again has a new queue
  flight.completion->finish(std::move(error), gpu_ns);
}

}  // namespace

void MetalCommands::dispatch(const std::shared_ptr<Pipeline>& pipeline,
                             std::span<const Argument> args, Size grid, Size threadgroup) {
  check_open("dispatch");
  check_own<MetalPipeline>(*context_, pipeline, "a pipeline");
  for (const Argument& argument : args) {
    const auto* slice = std::get_if<Slice>(&argument);
    if (slice && slice->buffer) check_own<MetalBuffer>(*context_, slice->buffer, "a buffer");
  }
  check_dispatch(*pipeline, context_->limits, args, {grid, threadgroup});
  recording_->dispatch(pipeline, args, grid, threadgroup);
}

void MetalCommands::on_completed(std::function<void()> handler) {
  check_open("on_completed");
  completion_->on_completed(std::move(handler));
}

void MetalCommands::on_settled(std::function<void()> handler) {
  check_open("on_settled");
  completion_->on_settled(std::move(handler));
}

void MetalCommands::commit() {
  check_open("commit");
  const Pool pool;
  context_->residency->used();
  auto place = std::make_unique<Place>(context_);
  // Unretained: the recording keeps everything, until the handler drops it.
  id<MTLCommandBuffer> buffer = [place->queue() commandBufferWithUnretainedReferences];
  if (!buffer) throw GpuError("[device::Metal] no command buffer");
  {
    Encoding encoding(*context_, *recording_, buffer);
    for (const auto& dispatch : recording_->dispatches()) encoding.encode(dispatch);
  }
  const auto flight =
      std::make_shared<InFlight>(std::move(recording_), completion_, std::move(place));
  [buffer addCompletedHandler:^(id<MTLCommandBuffer> completed) {
    finish(completed, *flight);
  }];
  [buffer commit];
}

bool MetalCommands::wait_for(uint64_t timeout_ns) {
  if (recording_) throw GpuError("[device::Metal] wait before commit");
  return completion_->wait_for(timeout_ns);
}

void MetalCommands::check_open(const char* what) const {
  if (!recording_) throw GpuError("[device::Metal] ", what, " after commit");
}

}  // namespace moeflux::device::metal
