#include <doctest/doctest.h>

#include <string>

#include "base/error.h"
#include "store/plan.h"

using moeflux::store::make_plan;
using moeflux::store::Plan;
using moeflux::store::PlanInput;

namespace {
// 100 resident + 20 scratch + 30 session; 16 experts of 10 bytes, 4 layers, top 2.
PlanInput input(uint64_t memory) {
  return {memory, 100, 20, 30, {{10, 16, 4}}, 2, 0};
}
}  // namespace

TEST_CASE("the plan at each boundary and one byte past it") {
  struct Row {
    uint64_t memory;
    uint32_t slots;
    bool holds_cycle;
  };
  for (const Row& row :
       {Row{180, 3, false}, Row{189, 3, false}, Row{190, 4, false}, Row{229, 7, false},
        Row{230, 8, true}, Row{309, 15, true}, Row{310, 16, true}, Row{1 << 20, 16, true}}) {
    const Plan plan = make_plan(input(row.memory));
    CAPTURE(row.memory);
    CHECK(plan.minimum_bytes == 180);
    CHECK(plan.min_slots == 3);
    CHECK(plan.max_slots == 16);
    CHECK(plan.slots == row.slots);
    CHECK(plan.holds_cycle == row.holds_cycle);
  }
}

TEST_CASE("one byte below the minimum is refused with the number that would do") {
  try {
    make_plan(input(179));
    FAIL("expected MemoryBudgetError");
  } catch (const moeflux::MemoryBudgetError& error) {
    CHECK(std::string(error.what()).find("at least 180") != std::string::npos);
  }
}

TEST_CASE("minimum slots follow top_k, few experts and the caller's limit") {
  PlanInput in = input(1000);
  in.top_k = 10;
  CHECK(make_plan(in).min_slots == 10);
  in.classes[0].n_experts = 2;
  CHECK(make_plan(in).min_slots == 2);
  CHECK(make_plan(in).max_slots == 2);
  in = input(1000);
  in.max_slots = 2;
  CHECK_THROWS_WITH_AS(make_plan(in), doctest::Contains("max_slots: expected at least 3, found 2"),
                       moeflux::FormatError);
  in.max_slots = 3;
  CHECK(make_plan(in).max_slots == 3);
  in.max_slots = 5;
  CHECK(make_plan(in).slots == 5);
}

TEST_CASE("classes of slots have a minimum each, and are equally full beyond it") {
  // 3 slots of 100 and 3 of 10 at least; 8 and 24 experts in 2 and 6 layers, top 2.
  const auto in = [](uint64_t room) {
    return PlanInput{150 + room, 100, 20, 30, {{100, 8, 2}, {10, 24, 6}}, 2, 0};
  };
  CHECK_THROWS_WITH_AS(make_plan(in(329)),
                       doctest::Contains("at least 480 (resident 100, scratch 20, a session 30, 3 "
                                         "expert slots of 100 and 3 expert slots of 10)"),
                       moeflux::MemoryBudgetError);
  struct Row {
    uint64_t room;
    uint32_t large, small;
    bool holds_cycle;
  };
  for (const Row& row : {Row{330, 3, 3, false}, Row{340, 3, 4, false}, Row{390, 3, 9, false},
                         Row{519, 4, 11, false}, Row{520, 4, 12, true}, Row{529, 4, 12, true},
                         Row{1040, 8, 24, true}, Row{1 << 20, 8, 24, true}}) {
    CAPTURE(row.room);
    const Plan plan = make_plan(in(row.room));
    CHECK(plan.classes.at(0).slots == row.large);
    CHECK(plan.classes.at(1).slots == row.small);
    CHECK(plan.slots == row.large + row.small);
    CHECK(plan.holds_cycle == row.holds_cycle);
    CHECK(plan.min_slots == 6);
    CHECK(plan.max_slots == 32);
    CHECK(plan.minimum_bytes == 480);
  }
  PlanInput limited = in(1 << 20);
  limited.max_slots = 16;
  CHECK(make_plan(limited).classes.at(0).slots == 4);
  CHECK(make_plan(limited).classes.at(1).slots == 12);
  limited.max_slots = 5;
  CHECK_THROWS_WITH_AS(make_plan(limited),
                       doctest::Contains("max_slots: expected at least 6, found 5"),
                       moeflux::FormatError);
}

TEST_CASE("a dense model needs no slots") {
  const Plan plan = make_plan({150, 100, 20, 30, {}, 0, 0});
  CHECK(plan.minimum_bytes == 150);
  CHECK(plan.slots == 0);
}

TEST_CASE("a pass is as wide as a quarter of what slots can give, where the experts do not fit") {
  PlanInput in = input(0);  // 30 bytes of slots at least
  in.chunk = in.rows = 8;
  in.wider = {{16, 10}, {32, 20}, {64, 31}};
  struct Row {
    uint64_t memory;
    uint32_t rows;
    uint64_t pass_bytes;
  };
  for (const Row& row :
       {Row{180, 8, 0}, Row{219, 8, 0}, Row{220, 16, 10}, Row{259, 16, 10}, Row{260, 32, 20},
        Row{303, 32, 20}, Row{304, 64, 31}, Row{309, 64, 31}, Row{310, 8, 0}}) {
    in.memory_bytes = row.memory;
    const Plan plan = make_plan(in);
    CAPTURE(row.memory);
    CHECK(plan.rows == row.rows);
    CHECK(plan.pass_bytes == row.pass_bytes);
    CHECK(plan.minimum_bytes == 180);
  }
}
