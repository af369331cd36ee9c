#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cerrno>
#include <cstring>

#include "base/error.h"
#include "io/file.h"
#include "io/open_direct.h"

namespace moeflux::io {

namespace {

[[noreturn]] void throw_errno(const std::string& doing, const std::string& path) {
  throw IoError("[io::PosixFile] cannot ", doing, ": ", std::strerror(errno), " (", path, ")");
}

class PosixFile final : public File {
 public:
  PosixFile(const std::string& path, bool direct) : path_(path) {
    const int flags = O_RDONLY | O_CLOEXEC | O_NONBLOCK;  // a FIFO must not hang the open
    if (direct) {
      const DirectFile file = open_direct(path, flags);
      fd_ = file.fd;
      alignment_ = file.alignment;
    }
    if (fd_ < 0) fd_ = open(path.c_str(), flags);
    if (fd_ < 0) throw_errno("open", path);
    struct stat info{};
    if (fstat(fd_, &info) != 0 || !S_ISREG(info.st_mode)) {
      close(fd_);
      throw IoError("[io::PosixFile] expected a regular file (", path, ")");
    }
    size_ = static_cast<uint64_t>(info.st_size);
  }
  ~PosixFile() override { close(fd_); }

  size_t read_at(uint64_t offset, std::span<std::byte> out) override {
    for (;;) {
      const ssize_t got = pread(fd_, out.data(), out.size(), static_cast<off_t>(offset));
      if (got >= 0) return static_cast<size_t>(got);
      if (errno != EINTR) throw_errno(cat("read at offset ", offset), path_);
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
