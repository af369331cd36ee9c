// Program: the commands of one command buffer, as data, and how the stand-in's GPU runs them.
// No Objective-C here. One thread.
#pragma once
#include <atomic>
#include <cstdint>
#include <memory>
#include <stdexcept>
#include <vector>

#include "metal_standin.h"

namespace metal_standin {

inline constexpr uint64_t kPageBytes = 16384;  // Apple silicon

struct Storage {  // the memory of a buffer, shared with the programs that use it
  explicit Storage(uint64_t nbytes);  // zero-filled, with canaries behind. Throws std::bad_alloc
  Storage(std::byte* data, uint64_t nbytes) : data(data), nbytes(nbytes), owned(false) {}
  ~Storage();
  Storage(const Storage&) = delete;
  Storage& operator=(const Storage&) = delete;

  bool intact() const;  // nothing was written behind it

  std::byte* const data;
  const uint64_t nbytes;
  const bool owned;                    // freed with the storage, else the caller's
  std::atomic<int> in_flight{0};       // committed programs that use it
  std::atomic<int> wired{0};           // residency sets that have it, as of their last commits
  std::atomic<bool> released = false;  // its buffer is gone
};

struct GpuFault : std::runtime_error {  // `code`: an MTLCommandBufferError
  GpuFault(long code, const std::string& text, bool ends_queue = false)
      : std::runtime_error(text), code(code), ends_queue(ends_queue) {}
  long code;
  bool ends_queue;  // which ignores what comes later
};

class Program {
 public:
  struct Dispatch {
    const Kernel* kernel;
    Launch launch;
  };

  void add(Dispatch dispatch, bool new_group);
  void use(std::shared_ptr<Storage> storage);
  // Memory that lives as long as the program; holds a copy of the bytes.
  std::byte* keep_bytes(const void* bytes, uint64_t nbytes);

  void commit();  // from now on its buffers are in flight, until the program goes
  ~Program();
  // Throws GpuFault, also for a hazard, which is recorded as a violation.
  void run();

 private:
  void run(const std::vector<Dispatch>& group) const;
  void run(const Dispatch& dispatch) const;
  void check_storages() const;

  // Dispatches that no barrier parts, of a concurrent encoder: they run in random order. Of a serial
  // encoder each stands alone.
  std::vector<std::vector<Dispatch>> groups_;
  std::vector<std::shared_ptr<Storage>> storages_;  // each once
  std::vector<std::vector<std::byte>> bytes_;
  bool committed_ = false;
};

}  // namespace metal_standin
