#include "check.h"
#include "sequence/scale/band.h"

using namespace gradcore;

namespace {

// What a band decides about values whose largest element is `all`, with all that waits.
struct Kept {
  double all;
  double factor = 1;
  int looks = 0;

  bool adjust(ScaleBand<float>& band, int32_t needed) {
    return band.adjust(
        0, needed,
        [&] {
          looks++;
          return all;
        },
        [&](float by) { factor *= static_cast<double>(by); });
  }
};

}  // namespace

TEST(values_in_the_band_stay_as_they_are) {
  ScaleBand<float> band(1);
  Kept kept{1};
  band.start(0, 3, 1.0);
  CHECK(!kept.adjust(band, no_exponent));
  CHECK_EQUAL(band.exponent(0), 3);
  CHECK_EQUAL(kept.looks, 0);
}

TEST(values_that_grow_or_shrink_come_back_into_the_band) {
  for (const double size : {0x1p30, 0x1p-30}) {
    ScaleBand<float> band(1);
    Kept kept{size};
    band.start(0, 0, size);
    CHECK(kept.adjust(band, no_exponent));
    // The true value stays what it was, and the kept one is between 1/2 and 1.
    CHECK_EQUAL(kept.factor * std::ldexp(1.0, band.exponent(0)), 1.0);
    CHECK_EQUAL(size * kept.factor, 0.5);
    CHECK_EQUAL(band.look(0), 0.5);
  }
}

TEST(what_waits_beyond_the_look_keeps_small_values_small) {
  ScaleBand<float> band(1);
  Kept kept{1.0};  // in the ring of a skip connection
  band.start(0, 0, 0x1p-30);
  CHECK(!kept.adjust(band, no_exponent));
  CHECK_EQUAL(band.exponent(0), 0);
  CHECK_EQUAL(kept.looks, 1);
}

TEST(what_arrives_raises_the_exponent) {
  ScaleBand<float> band(1);
  Kept kept{1};
  band.start(0, -40, 1.0);
  CHECK(kept.adjust(band, 0));
  CHECK_EQUAL(band.exponent(0), 0);
  CHECK_EQUAL(kept.factor, 0x1p-40);
}

TEST(zeros_take_the_exponent_of_what_arrives_and_are_not_scaled) {
  ScaleBand<float> band(1);
  Kept kept{0};
  band.start(0, 500, 0.0);
  CHECK(!kept.adjust(band, -300));  // a factor of 2^800 would be infinite
  CHECK_EQUAL(band.exponent(0), -300);
  CHECK_EQUAL(kept.factor, 1.0);
}
