//! Frames.
use crate::Env;
use core::sync::atomic::Ordering::Relaxed;
use ptshare_paging::Pfn;
use ptshare_wire::FrameKind;

/// Out of frames.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct NoMemory;
/// Who asks.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Priority {
    /// user pages
    User,
    /// kernel
    Kernel,
}
/// Allocator
pub struct Buddy;
/// A data frame (Anon, Cache) with `refs` 1; zero-filled if `zeroed`.
pub fn alloc_data<E: Env>(
    _env: &E,
    _kind: FrameKind,
    _zeroed: bool,
    _priority: Priority,
) -> Result<Pfn, NoMemory> {
    Err(NoMemory)
}
/// Takes a reference on a data frame.
pub fn get_data<E: Env>(env: &E, pfn: Pfn) {
    env.meta(pfn).refs.fetch_add(1, Relaxed);
}
/// Drops a reference on a data frame; frees it with the last.
pub fn put_data<E: Env>(_env: &E, _pfn: Pfn) {}
