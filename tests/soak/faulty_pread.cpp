// Preloaded into a process: its preads come short, late, interrupted or not at all, at random, and
// its writes and syncs of files fail. So the whole stack is tested over a bad disk, the real
// io::PosixFile included. set_faults() and set_write_faults() are called by the process itself
// (ctypes).
#include <dlfcn.h>
#include <errno.h>
#include <stdint.h>
#include <sys/stat.h>
#include <sys/types.h>
#include <time.h>
#include <unistd.h>

#include <atomic>

namespace {
std::atomic<uint32_t> short_reads{0}, interrupts{0}, failures{0}, delays{0};  // of 65536 reads
std::atomic<uint32_t> write_failures{0};                                      // of 65536 writes
std::atomic<uint64_t> state{1};
std::atomic<uint64_t> counts[5];

uint64_t random_bits() {  // splitmix64 over a shared counter
  uint64_t z = state.fetch_add(0x9e3779b97f4a7c15);
  z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9;
  z = (z ^ (z >> 27)) * 0x94d049bb133111eb;
  return z ^ (z >> 31);
}
bool happens(const std::atomic<uint32_t>& rate, int which) {
  if ((random_bits() & 0xffff) >= rate.load()) return false;
  ++counts[which];
  return true;
}

ssize_t faulty(int fd, void* out, size_t n, off_t offset) {
  using Read = ssize_t (*)(int, void*, size_t, off_t);
  static const Read real = reinterpret_cast<Read>(dlsym(RTLD_NEXT, "pread64"));
  if (happens(delays, 3)) {
    const timespec pause{0, static_cast<long>(random_bits() % 3000000)};
    nanosleep(&pause, nullptr);
  }
  if (happens(interrupts, 1)) {
    errno = EINTR;
    return -1;
  }
  if (happens(failures, 2)) {
    errno = EIO;
    return -1;
  }
  constexpr size_t kBlock = 4096;  // a direct read comes short by whole blocks
  if (n > kBlock && happens(short_reads, 0)) n = (1 + random_bits() % (n / kBlock)) * kBlock;
  return real(fd, out, n, offset);
}
bool write_fails(int fd) {  // pipes and terminals are left alone
  struct stat info;
  return fstat(fd, &info) == 0 && S_ISREG(info.st_mode) && happens(write_failures, 4);
}
}  // namespace

extern "C" {
void set_write_faults(uint32_t rate) {
  write_failures = rate;
}
ssize_t write(int fd, const void* data, size_t n) {
  using Write = ssize_t (*)(int, const void*, size_t);
  static const Write real = reinterpret_cast<Write>(dlsym(RTLD_NEXT, "write"));
  if (!write_fails(fd)) return real(fd, data, n);
  errno = ENOSPC;
  return -1;
}
int fsync(int fd) {
  using Sync = int (*)(int);
  static const Sync real = reinterpret_cast<Sync>(dlsym(RTLD_NEXT, "fsync"));
  if (!write_fails(fd)) return real(fd);
  errno = EIO;
  return -1;
}
void set_faults(uint64_t seed, uint32_t shorts, uint32_t eintr, uint32_t eio, uint32_t slow) {
  state = seed;
  short_reads = shorts;
  interrupts = eintr;
  failures = eio;
  delays = slow;
}
uint64_t fault_count(int which) {
  return counts[which];
}
ssize_t pread(int fd, void* out, size_t n, off_t offset) {
  return faulty(fd, out, n, offset);
}
ssize_t pread64(int fd, void* out, size_t n, off_t offset) {
  return faulty(fd, out, n, offset);
}
}
