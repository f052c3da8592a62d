use super::*;
use proptest::prelude::*;

fn taken(bucket: &AtomicU64, rate: Rate, now_ns: u64, tries: u32) -> u32 {
    (0..tries).filter(|_| take(bucket, &rate, now_ns)).count() as u32
}

#[test]
fn burst_then_rate() {
    let rate = Rate::per_second(20, 5);
    let bucket = AtomicU64::new(0);
    let start = 1 << 40;
    assert_eq!(taken(&bucket, rate, start, 100), 5);
    assert_eq!(taken(&bucket, rate, start + 49_999_999, 100), 0);
    assert!(!has_token(&bucket, &rate, start + 49_999_999));
    assert!(has_token(&bucket, &rate, start + 50_000_000));
    assert_eq!(taken(&bucket, rate, start + 50_000_000, 100), 1);
    assert_eq!(taken(&bucket, rate, u64::MAX / 2, 100), 5, "capped at the burst");
    assert_eq!(taken(&bucket, rate, start, 100), 0, "a clock that went back gives nothing");
}

#[test]
fn extremes() {
    let none = AtomicU64::new(u64::MAX);
    assert!(take(&none, &Rate::UNLIMITED, 0), "unlimited is unlimited");
    assert!(!take(&none, &Rate::per_second(1, 1), 0));
    assert_eq!(Rate::per_second(0, 7), Rate::UNLIMITED);
    assert_eq!(taken(&AtomicU64::new(0), Rate::per_second(1, 0), 9, 9), 1, "a burst is at least one");
    let rate = Rate::per_second(1, u32::MAX);
    assert_eq!(taken(&AtomicU64::new(0), rate, u64::MAX, 3), 3, "the end of time");
}

proptest! {
    /// Against a bucket that counts tokens, as one would write it down.
    #[test]
    fn like_a_bucket_that_counts(
        per_s in 1_u32..5000, burst in 1_u32..50, steps in prop::collection::vec(0_u64..400_000_000, 1..200)
    ) {
        let rate = Rate::per_second(per_s, burst);
        let bucket = AtomicU64::new(0);
        let full = u128::from(burst) * u128::from(rate.interval_ns);
        let (mut fill, mut now) = (full, 7_u64);
        for step in steps {
            now += step;
            fill = (fill + u128::from(step)).min(full);
            let expected = fill >= u128::from(rate.interval_ns);
            if expected {
                fill -= u128::from(rate.interval_ns);
            }
            prop_assert_eq!(has_token(&bucket, &rate, now), expected);
            prop_assert_eq!(take(&bucket, &rate, now), expected);
        }
    }
}
