#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstring>

#include "base/error.h"
#include "io/file.h"

namespace moeflux::io {

namespace {

// What every file system in use accepts; asked of the kernel where it tells (STATX_DIOALIGN).
constexpr size_t kDirectAlignment = 4096;

[[noreturn]] void throw_errno(const std::string& doing, const std::string& path) {
  throw IoError("[io::PosixFile] cannot " + doing + ": " + std::strerror(errno) + " (" + path +
                ")");
}

size_t direct_alignment([[maybe_unused]] int fd) {
#ifdef STATX_DIOALIGN
  struct statx info{};
  if (statx(fd, "", AT_EMPTY_PATH, STATX_DIOALIGN, &info) == 0 &&
      (info.stx_mask & STATX_DIOALIGN) != 0) {
    if (info.stx_dio_offset_align == 0) return 1;  // this file refuses direct reads
    return std::max<size_t>({info.stx_dio_offset_align, info.stx_dio_mem_align, 512});
  }
#endif
  return kDirectAlignment;
}

class PosixFile final : public File {
 public:
  PosixFile(const std::string& path, bool direct) : path_(path) {
    int flags = O_RDONLY | O_CLOEXEC | O_NONBLOCK;  // a FIFO must not hang the open
#ifdef O_DIRECT
    if (direct) fd_ = open(path.c_str(), flags | O_DIRECT);
    if (fd_ >= 0) alignment_ = direct_alignment(fd_);
#endif
    if (fd_ >= 0 && alignment_ == 1) {
      close(fd_);
      fd_ = -1;
    }
    if (fd_ < 0) fd_ = open(path.c_str(), flags);
    if (fd_ < 0) throw_errno("open", path);
    struct stat info{};
    if (fstat(fd_, &info) != 0 || !S_ISREG(info.st_mode)) {
      close(fd_);
      throw IoError("[io::PosixFile] expected a regular file (" + path + ")");
    }
    size_ = static_cast<uint64_t>(info.st_size);
#ifdef F_NOCACHE
    if (direct) fcntl(fd_, F_NOCACHE, 1);
#endif
  }
  ~PosixFile() override { close(fd_); }

  size_t read_at(uint64_t offset, std::span<std::byte> out) override {
    for (;;) {
      const ssize_t got = pread(fd_, out.data(), out.size(), static_cast<off_t>(offset));
      if (got >= 0) return static_cast<size_t>(got);
      if (errno != EINTR) throw_errno("read at offset " + std::to_string(offset), path_);
    }
  }
  uint64_t size() const override { return size_; }
  size_t alignment() const override { return alignment_; }
  const std::string& path() const override { return path_; }

 private:
  std::string path_;
  int fd_ = -1;
  uint64_t size_ = 0;
  size_t alignment_ = 1;
};

}  // namespace

std::shared_ptr<File> open_posix(const std::string& path, bool direct) {
  return std::make_shared<PosixFile>(path, direct);
}

}  // namespace moeflux::io
