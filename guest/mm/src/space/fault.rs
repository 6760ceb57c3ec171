//! Faults.
use crate::{Env, Mm};
/// What the access wanted.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Access {
    /// A write.
    pub write: bool,
    /// An instruction fetch.
    pub exec: bool,
    /// From user mode.
    pub user: bool,
}
/// How a fault ends.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum FaultOutcome {
    /// Repeat the access.
    Resolved,
    /// SIGSEGV, SEGV_MAPERR.
    SegvMapErr,
    /// SIGSEGV, SEGV_ACCERR.
    SegvAccErr,
    /// SIGBUS, BUS_ADRERR.
    BusAdrErr,
    /// No frame: the kernel kills somebody.
    OutOfMemory,
}
impl<E: Env> Mm<E> {
    /// Handles a page fault.
    pub fn fault(&self, _addr: u64, _access: Access) -> FaultOutcome { FaultOutcome::SegvMapErr }
}
