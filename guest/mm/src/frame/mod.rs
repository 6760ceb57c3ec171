//! Frames: their metadata, their reference counts, and the allocator.
//!
//! The count rule is written once, in `ptshare_wire::frame`. Here a *data frame* is one of kind Anon, Cache or Zero;
//! tables have functions of their own (`crate::table`), because dropping one drops what it points to.
//!
//! Locks: the allocator's ([`ptshare_sync::Rank::Frames`], innermost). Counts are atomic and need none.

mod buddy;
#[cfg(test)]
mod tests;

pub use buddy::{Buddy, MAX_ORDER};

use crate::Env;
use core::sync::atomic::Ordering::{AcqRel, Relaxed};
use ptshare_mutants::mutant;
use ptshare_paging::Pfn;
use ptshare_wire::frame::{FrameKind, state};

/// No frame is left for this priority. Becomes `ENOMEM`, or ends the process that faulted.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct NoMemory;

/// For whom a frame is.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Priority {
    /// Pages and tables of processes: refused while only the allocator's reserve is left.
    User,
    /// The kernel's own memory: may use the reserve.
    Kernel,
}

/// The kind in a `state` word.
#[inline]
pub(crate) const fn kind_bits(state: u32) -> u32 {
    state & 0xff
}

/// Is this the `state` word of a frame of this kind?
#[inline]
pub(crate) const fn is_kind(state: u32, kind: FrameKind) -> bool {
    kind_bits(state) == kind as u32
}

/// Takes a frame, gives it this `state` word and a count of 1; says whether its content is zero. `keep_zero`: see
/// [`Buddy::take_frame`].
///
/// # Errors
/// [`NoMemory`] when none is left for `priority`.
#[inline]
pub(crate) fn take<E: Env>(
    env: &E,
    state: u32,
    keep_zero: bool,
    priority: Priority,
) -> Result<(Pfn, bool), NoMemory> {
    let taken = env.allocator().lock().take_frame(env, keep_zero, state, priority);
    let Some((pfn, is_zero)) = taken else { return Err(NoMemory) };
    env.meta(pfn).refs.store(1, Relaxed);
    Ok((pfn, is_zero))
}

/// Takes a data frame of this kind with a count of 1; its content is zero if `zeroed`, anything otherwise. The caller
/// is in a critical section and gives the count an owner (a leaf, the page cache) before it ends.
///
/// # Errors
/// [`NoMemory`] when none is left for `priority`.
#[inline]
pub fn alloc_data<E: Env>(
    env: &E,
    kind: FrameKind,
    zeroed: bool,
    priority: Priority,
) -> Result<Pfn, NoMemory> {
    let (pfn, is_zero) = take(env, state(kind, 0, 0), false, priority)?;
    if zeroed && !is_zero {
        env.zero_pages(pfn, 1);
    }
    Ok(pfn)
}

/// Notes what the reverse map of a private page starts from: the family of the mm for which it is made, and its number in
/// the VMA ([`crate::Vma::pgoff_of`]).
#[inline]
pub(crate) fn set_owner<E: Env>(env: &E, pfn: Pfn, family: u64, pgoff: u64) {
    let meta = env.meta(pfn);
    meta.a.store(family, Relaxed);
    meta.b.store(pgoff, Relaxed);
}

/// Takes a reference on a data frame.
#[inline]
pub fn get_data<E: Env>(env: &E, pfn: Pfn) {
    env.meta(pfn).refs.fetch_add(1, Relaxed);
}

/// Drops a reference on a data frame, and frees the frame with the last (the zero page excepted). Every CPU that may
/// have cached a translation through the reference has been flushed.
#[inline]
pub fn put_data<E: Env>(env: &E, pfn: Pfn) {
    if drop_ref(env, pfn) {
        free_data(env, &mut env.allocator().lock(), pfn);
    }
}

/// [`put_data`] for many frames under one lock. Has the frame been freed?
#[inline]
pub(crate) fn put_data_locked<E: Env>(env: &E, allocator: &mut Buddy, pfn: Pfn) -> bool {
    let last = drop_ref(env, pfn);
    if last {
        free_data(env, allocator, pfn);
    }
    last
}

#[inline]
fn free_data<E: Env>(env: &E, allocator: &mut Buddy, pfn: Pfn) {
    if is_kind(env.meta(pfn).state.load(Relaxed), FrameKind::Hugetlb) {
        allocator.huge_put(env, pfn);
    } else if !mutant!(FREED_PAGE_LOST) {
        if mutant!(FREED_PAGE_KEEPS_COUNT) {
            get_data(env, pfn);
        }
        allocator.free(env, pfn, 0, false);
    }
}

/// Is this the `state` word of a page that belongs to processes alone, rather than to an object's cache?
#[inline]
pub(crate) const fn is_private(state: u32) -> bool {
    is_kind(state, FrameKind::Anon)
        || (is_kind(state, FrameKind::Hugetlb) && state & ptshare_wire::frame::FLAG_IN_CACHE == 0)
}

/// Drops a reference; is the frame to be freed?
#[inline]
fn drop_ref<E: Env>(env: &E, pfn: Pfn) -> bool {
    let meta = env.meta(pfn);
    let before = meta.refs.fetch_sub(1, AcqRel);
    debug_assert!(before > 0, "refs-not-negative: frame {:#x}", pfn.0);
    if mutant!(PAGE_FREED_BEFORE_LAST) && before == 2 && is_kind(meta.state.load(Relaxed), FrameKind::Anon) {
        return true;
    }
    before == 1 && !is_kind(meta.state.load(Relaxed), FrameKind::Zero)
}

/// Takes `1 << order` consecutive frames, aligned to their number, as kernel memory; their content is zero if
/// `zeroed`. For the kernel heap, stacks, per-CPU areas.
///
/// # Errors
/// [`NoMemory`] when no such block can be found.
pub fn alloc_kernel<E: Env>(env: &E, order: usize, zeroed: bool) -> Result<Pfn, NoMemory> {
    env.critical_enter();
    let kernel = state(FrameKind::Kernel, 0, 0);
    let taken = env.allocator().lock().alloc(env, order, zeroed, kernel, Priority::Kernel);
    let result = match taken {
        None => Err(NoMemory),
        Some((pfn, was_zeroed)) => {
            if zeroed && !was_zeroed {
                env.zero_pages(pfn, 1 << order);
            }
            if !(mutant!(KERNEL_FRAMES_UNCOUNTED) && order > 0) {
                env.census().kernel_frames.fetch_add(1 << order, Relaxed);
            }
            Ok(pfn)
        }
    };
    env.critical_exit();
    result
}

/// Gives back a block of [`alloc_kernel`].
pub fn free_kernel<E: Env>(env: &E, pfn: Pfn, order: usize) {
    env.critical_enter();
    env.census().kernel_frames.fetch_sub(1 << order, Relaxed);
    env.allocator().lock().free(env, pfn, order, false);
    env.critical_exit();
}
