//! System calls: what threads use to do without locks.

use super::{Args, SysResult};
use crate::task::{current, membarrier as barriers, rseq as sequences};
use ptshare_machine::trap::TrapFrame;

/// rseq(2).
pub fn rseq(a: &Args, _: &mut TrapFrame) -> SysResult {
    sequences::register(&current(), a[0], a[1] as u32, a[2] as u32, a[3] as u32)?;
    Ok(0)
}

/// membarrier(2).
pub fn membarrier(a: &Args, _: &mut TrapFrame) -> SysResult {
    Ok(u64::from(barriers::membarrier(a[0] as u32, a[1] as u32, a[2] as u32)?))
}
