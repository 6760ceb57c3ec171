//! Random numbers: RDRAND where the CPU has it, else a mixer over the time-stamp counter.
//!
//! Good for address layout and for programs' seeds; ptshare makes no promise of cryptographic strength.

use crate::cpu;
use core::arch::asm;
use core::sync::atomic::{AtomicU64, Ordering::Relaxed};

static STATE: AtomicU64 = AtomicU64::new(0x9e37_79b9_7f4a_7c15);

/// 64 random bits. SplitMix64 (Steele, Lea, Flood 2014) over a state that each call stirs with the clock, and once
/// with RDRAND.
pub fn u64() -> u64 {
    let stirred = STATE.load(Relaxed).wrapping_add(0x9e37_79b9_7f4a_7c15) ^ cpu::rdtsc();
    STATE.store(stirred, Relaxed);
    let mut z = stirred;
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}

/// Seeds the generator once.
pub(crate) fn init() {
    // CPUID leaf 1, ECX bit 30: RDRAND (SDM 2A, CPUID).
    if cpu::cpuid(1).2 & (1 << 30) != 0 {
        let value: u64;
        // SAFETY: the instruction exists; when it fails it gives 0, which stirs nothing and harms nothing.
        unsafe { asm!("rdrand {}", out(reg) value, options(nomem, nostack)) }
        STATE.store(STATE.load(Relaxed) ^ value, Relaxed);
    }
}
