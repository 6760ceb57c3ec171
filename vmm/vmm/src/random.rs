//! The judge at random instants: stops the guest from outside at times that a seed gives, whatever it is doing, and judges
//! what it finds, unless a CPU is inside a critical section.

use crate::checkpoint::{self, Judged};
use crate::config::RandomVerify;
use crate::machine::Machine;
use std::time::Duration;

/// How long a CPU has to leave its critical section before it is looked at again; doubled each time up to the second.
const RETRY: Duration = Duration::from_micros(50);
const RETRY_MAX: Duration = Duration::from_millis(2);

/// A small generator of good quality: SplitMix64 (Steele, Lea, Flood, OOPSLA 2014).
pub struct Random(u64);

impl Random {
    /// One whose numbers are the seed's.
    pub fn new(seed: u64) -> Random {
        Random(seed)
    }

    /// The next 64 bits.
    pub fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// Time to the next of events that come `hz` times a second on average, independently of each other.
    fn interval(&mut self, hz: f64) -> Duration {
        // (0, 1]: the logarithm is finite.
        let uniform = ((self.next() >> 11) + 1) as f64 / (1u64 << 53) as f64;
        Duration::from_secs_f64((-uniform.ln() / hz).min(3600.0))
    }
}

/// Judges until the run stops, or is to stop because of a violation.
pub fn run(machine: &Machine, how: RandomVerify) {
    let mut random = Random::new(how.seed);
    while machine.sleep(random.interval(how.hz)) {
        if machine.census().is_none() {
            continue;
        }
        let mut again = RETRY;
        loop {
            let Some(stopped) = machine.pause.stop(None) else { return };
            machine.record().verifier.random.pauses += 1;
            match checkpoint::judge(machine, &stopped, "at a random instant") {
                Judged::Clean { user } => {
                    let mut record = machine.record();
                    record.verifier.random.verdicts += 1;
                    record.verifier.random.in_kernel += u64::from(!user);
                    break;
                }
                Judged::Critical => machine.record().verifier.random.retries += 1,
                Judged::Ended(ending) => return machine.end(ending),
            }
            drop(stopped);
            if !machine.sleep(again) {
                return;
            }
            again = (again * 2).min(RETRY_MAX);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn intervals_have_the_mean_asked_for_and_are_the_seeds() {
        let times = |seed| {
            let mut random = Random::new(seed);
            (0..10_000).map(|_| random.interval(100.0).as_secs_f64()).collect::<Vec<_>>()
        };
        let mean = times(7).iter().sum::<f64>() / 10_000.0;
        assert!((0.009..0.011).contains(&mean), "{mean}");
        assert_eq!(times(7), times(7));
        assert_ne!(times(7), times(8));
    }
}
