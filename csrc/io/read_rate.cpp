#include "io/read_rate.h"

#include <atomic>
#include <chrono>
#include <random>

#include "base/account.h"
#include "base/error.h"
#include "base/memory.h"
#include "base/thread_pool.h"

namespace moeflux::io {

ReadRate measure_reads(File& file, uint64_t record_bytes, int n_threads, double seconds) {
  using Clock = std::chrono::steady_clock;
  if (record_bytes == 0 || n_threads < 1 || !(seconds > 0))
    throw FormatError("[io::measure_reads] expected records, threads and seconds above 0");
  if (file.size() < record_bytes)
    throw FormatError("[io::measure_reads] expected a file of at least one record of " +
                      std::to_string(record_bytes) + " bytes, found " +
                      std::to_string(file.size()) + " (" + file.path() + ")");
  const uint64_t n_records = file.size() / record_bytes;
  base::Account account(UINT64_MAX);
  base::ThreadPool pool(n_threads);
  std::atomic<uint64_t> bytes{0};
  const auto begin = Clock::now();
  const auto end =
      begin + std::chrono::duration_cast<Clock::duration>(std::chrono::duration<double>(seconds));
  pool.parallel_for(n_threads, [&](int task, int) {
    base::Memory record(account, record_bytes, "record"), bounce(account, kBounceBytes, "bounce");
    std::minstd_rand random(static_cast<uint32_t>(task) + 1);
    do {
      read_exact(file, random() % n_records * record_bytes, {record.data(), record_bytes},
                 bounce.data());
      bytes += record_bytes;
    } while (Clock::now() < end);
  });
  return {bytes, std::chrono::duration<double>(Clock::now() - begin).count()};
}

}  // namespace moeflux::io
