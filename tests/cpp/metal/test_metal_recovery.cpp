// After the system has ended work: what the error says, that the next call has a queue that works,
// and what is kept wired meanwhile.
#include <cstdlib>
#include <deque>
#include <future>
#include <thread>

#include "device/metal/advice.h"
#include "metal/rig.h"

using namespace moeflux;
using namespace moeflux::test;
using metal_standin::Fault;
using metal_standin::inject;

namespace {

struct Job {  // copies x to y
  explicit Job(Device& device) : x(filled(device, {1})), y(device.buffer(4)) {
    commands = device.commands();
    dispatch(device, *commands, "copy", {Slice{x}, Slice{y}, u32(1)}, 1);
  }
  std::string error() const {
    try {
      commands->wait();
    } catch (const GpuError& error) {
      return error.what();
    }
    return {};
  }
  std::shared_ptr<Buffer> x, y;
  std::unique_ptr<Commands> commands;
};

std::string run_job(Device& device) {
  Job job(device);
  job.commands->commit();
  return job.error();
}

// What comes about within ten seconds.
template <class Holds>
bool soon(const Holds& holds) {
  for (int i = 0; i < 1000 && !holds(); ++i)
    std::this_thread::sleep_for(std::chrono::milliseconds(10));
  return holds();
}

}  // namespace

TEST_CASE("what the system ended is an error that says what to do, and the next call works") {
  const Clean clean;
  const auto device = open_device();
  for (int again = 0; again < 3; ++again) {
    inject(Fault::interactivity);
    const std::string slow = run_job(*device);
    CHECK(slow.find("0000000e:") != std::string::npos);
    CHECK(slow.find("kept the display waiting. Try again") != std::string::npos);
    CHECK(slow.find("kernels: copy") != std::string::npos);
    CHECK(run_job(*device).empty());
    inject(Fault::timeout);
    CHECK(run_job(*device).find("held the GPU for too long. Try again") != std::string::npos);
    CHECK(run_job(*device).empty());
  }
}

TEST_CASE("a queue that the system ignores is replaced when none of its work is under way") {
  const Clean clean;
  const auto device = open_device();
  inject(Fault::timeout);
  std::vector<std::unique_ptr<Job>> jobs;
  for (int i = 0; i < 5; ++i) jobs.push_back(std::make_unique<Job>(*device));
  for (const auto& job : jobs) job->commands->commit();
  CHECK(jobs[0]->error().find("for too long") != std::string::npos);
  // Those behind it are ignored, or came when it was over.
  for (size_t i = 1; i < jobs.size(); ++i) {
    const std::string error = jobs[i]->error();
    if (!error.empty()) CHECK(error.find("the queue is made anew") != std::string::npos);
  }
  CHECK(run_job(*device).empty());
}

TEST_CASE("a new queue that cannot be had is an error, and is asked for again") {
  const Clean clean;
  const auto device = open_device();
  inject(Fault::timeout);
  CHECK(!run_job(*device).empty());
  inject(Fault::queue);
  CHECK_THROWS_WITH_AS(run_job(*device), doctest::Contains("no command queue"), GpuError);
  CHECK(run_job(*device).empty());
}

TEST_CASE("advice goes by the driver's code where the text has one, else by Metal's") {
  using device::metal::advice;
  CHECK(advice(1, "Impacting Interactivity (0000000e:kIOGPU)").find("display") !=
        std::string::npos);
  CHECK(advice(2, "Timeout").find("too long") != std::string::npos);
  CHECK(advice(4, "(so) (00000004:kIOGPU)").find("ignores") != std::string::npos);
  CHECK(advice(8, "Insufficient Memory (00000008:kIOGPU)").find("memory=") != std::string::npos);
  CHECK(advice(9, "(0000000g:").find("report") != std::string::npos);  // no number
  CHECK(advice(-5, "(").empty());
  CHECK(advice(77, "").empty());
}

TEST_CASE("a queue that failed is replaced although others always have work under way") {
  const Clean clean;
  metal_standin::set_schedule({.max_delay_us = 2000});
  const auto device = open_device();
  inject(Fault::timeout);
  std::deque<std::unique_ptr<Job>> jobs;
  int failed = 0, good = 0;
  constexpr int kUnderWay = 40;
  for (int i = 0; i < 150; ++i) {
    jobs.push_back(std::make_unique<Job>(*device));
    jobs.back()->commands->commit();
    if (jobs.size() < kUnderWay) continue;
    (jobs.front()->error().empty() ? good : failed)++;
    jobs.pop_front();
  }
  for (const auto& job : jobs) CHECK(job->error().empty());
  CHECK(failed <= kUnderWay);
  CHECK(good > kUnderWay);
}

TEST_CASE("more command buffers than a queue has are committed, some of them late") {
  const Clean clean;
  const auto device = open_device();
  std::vector<std::unique_ptr<Job>> jobs;
  for (int i = 0; i < 200; ++i) {
    jobs.push_back(std::make_unique<Job>(*device));
    jobs.back()->commands->commit();
  }
  for (const auto& job : jobs) CHECK(job->error().empty());
}

TEST_CASE("work that never ran has no time, work that was ended for its length has some") {
  const Clean clean;
  using device::metal::was_too_long;
  CHECK(was_too_long(2, "Timeout"));
  CHECK(was_too_long(1, "Impacting Interactivity (0000000e:kIOGPU)"));
  CHECK(!was_too_long(1, "Ignored (00000004:kIOGPU)"));
  CHECK(!was_too_long(3, "Address Fault"));
  metal_standin::set_schedule({.tells_times = false});
  const auto device = open_device();
  for (const Fault fault : {Fault::interactivity, Fault::execution}) {
    Job job(*device);
    inject(fault);
    job.commands->commit();
    CHECK(!job.error().empty());
    CHECK((job.commands->gpu_ns() > 0) == (fault == Fault::interactivity));
  }
}

TEST_CASE("matrices of a SIMD group are for devices that have them") {
  const Clean clean;
  CHECK(open_device()->limits().simdgroup_matrices);
  inject(Fault::family);
  CHECK(!open_device()->limits().simdgroup_matrices);
}

TEST_CASE("buffers are in the residency set until they go, taken up in crowds") {
  const Clean clean;
  const auto before = metal_standin::residency();
  const auto device = open_device();
  const auto x = filled(*device, {1});
  std::vector<std::shared_ptr<Buffer>> more;
  for (int i = 0; i < 20; ++i) more.push_back(device->buffer(64));
  CHECK(run_job(*device).empty());
  CHECK(soon([&] { return metal_standin::residency().requests > before.requests; }));
  CHECK(soon([&] { return metal_standin::residency().members >= before.members + 21; }));
  const auto used = metal_standin::residency();
  CHECK(used.commits <= before.commits + 5);  // not one for each buffer
  more.clear();
  const auto next = device->buffer(64);  // what went is let go before more is taken
  CHECK(metal_standin::residency().members <= used.members - 20);
}

TEST_CASE("buffers that are given back leave the residency set without further work") {
  const Clean clean;
  const auto device = open_device();
  const auto before = metal_standin::residency();
  std::vector<std::shared_ptr<Buffer>> more;
  for (int i = 0; i < 20; ++i) more.push_back(device->buffer(64));
  CHECK(soon([&] { return metal_standin::residency().members >= before.members + 20; }));
  more.clear();
  CHECK(soon([&] { return metal_standin::residency().members <= before.members; }));
}

TEST_CASE("memory that is wrapped is out of the residency set before its owner has it back") {
  const Clean clean;  // the stand-in records memory that is not
  const auto device = open_device();
  const auto before = metal_standin::residency();
  const uint64_t nbytes = device->limits().page_bytes;
  const std::unique_ptr<void, decltype(&std::free)> pages(std::aligned_alloc(nbytes, nbytes),
                                                          &std::free);
  auto buffer = device->wrap(static_cast<std::byte*>(pages.get()), nbytes, [] {});
  CHECK(soon([&] { return metal_standin::residency().members > before.members; }));
  buffer.reset();
}

TEST_CASE("nobody waits while memory is wired") {
  const Clean clean;
  const auto device = open_device();
  metal_standin::set_schedule({.hold_requests = true});
  CHECK(run_job(*device).empty());
  REQUIRE(soon([] { return metal_standin::residency().held > 0; }));
  auto work = std::async(std::launch::async, [&] {
    const auto buffer = device->buffer(64);
    return run_job(*device);
  });
  const bool went_on = work.wait_for(std::chrono::seconds(10)) == std::future_status::ready;
  metal_standin::set_schedule({});
  CHECK(went_on);
  CHECK(work.get().empty());
}

TEST_CASE("in a pause the memory is asked for again") {
  const Clean clean;
  const auto device = open_device();
  CHECK(run_job(*device).empty());
  const auto before = metal_standin::residency();
  CHECK(soon([&] { return metal_standin::residency().requests >= before.requests + 2; }));
}

TEST_CASE("a system that makes no residency set is as one that knows none") {
  const Clean clean;
  inject(Fault::residency);
  const auto device = open_device();
  CHECK(run_job(*device).empty());
}
