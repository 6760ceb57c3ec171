//! The kernel heap: size classes up to 2 KiB in single frames, whole blocks of frames above.
//!
//! A class's frame keeps its books in its metadata: `aux` objects in use (bits 15:0) and objects ever carved (31:16),
//! `a` the first free object, `b` and `lock` the next and previous frame with room. A frame goes back to the frame
//! allocator with its last object, so that an idle kernel holds no memory. O(1) throughout.

use crate::env::Machine;
use crate::{boot, phys};
use alloc::alloc::{GlobalAlloc, Layout};
use core::sync::atomic::Ordering::Relaxed;
use ptshare_mm::{Env, frame};
use ptshare_paging::{PAGE_BYTES, Pfn};
use ptshare_sync::{Lock, Rank};
use ptshare_wire::FrameMeta;

/// log2 of the smallest class: 16 bytes.
const MIN_SHIFT: u32 = 4;
/// log2 of the largest class: 2 KiB.
const MAX_SHIFT: u32 = 11;
const CLASSES: usize = (MAX_SHIFT - MIN_SHIFT + 1) as usize;

struct Heap;

/// First frame with room, by class; 0: none.
static PARTIAL: Lock<[u64; CLASSES]> = Lock::new(Rank::Heap, [0; CLASSES]);

#[global_allocator]
static HEAP: Heap = Heap;

fn meta(pfn: u64) -> &'static FrameMeta {
    boot::frame_meta(Pfn(pfn))
}

/// The class that serves a layout; `None` when it needs whole frames.
#[inline]
fn class_of(layout: Layout) -> Option<usize> {
    let size = layout.size().max(layout.align());
    if size <= 1 << MIN_SHIFT {
        Some(0)
    } else if size <= 1 << MAX_SHIFT {
        Some((usize::BITS - (size - 1).leading_zeros() - MIN_SHIFT) as usize)
    } else {
        None
    }
}

/// log2 of the frames that a large layout needs.
fn order_of(layout: Layout) -> usize {
    let pages = layout.size().max(layout.align()).div_ceil(PAGE_BYTES as usize);
    pages.next_power_of_two().trailing_zeros() as usize
}

/// Puts a frame at the head of its class's list.
fn link(list: &mut u64, pfn: u64) {
    let frame = meta(pfn);
    frame.b.store(*list, Relaxed);
    frame.lock.store(0, Relaxed);
    if *list != 0 {
        meta(*list).lock.store(pfn as u32, Relaxed);
    }
    *list = pfn;
}

/// Takes a frame off its class's list.
fn unlink(list: &mut u64, pfn: u64) {
    let frame = meta(pfn);
    let (next, previous) = (frame.b.load(Relaxed), u64::from(frame.lock.load(Relaxed)));
    if previous == 0 {
        *list = next;
    } else {
        meta(previous).b.store(next, Relaxed);
    }
    if next != 0 {
        meta(next).lock.store(previous as u32, Relaxed);
    }
    frame.b.store(0, Relaxed);
    frame.lock.store(0, Relaxed);
}

fn alloc_small(class: usize) -> *mut u8 {
    let shift = class as u32 + MIN_SHIFT;
    let capacity = PAGE_BYTES as u32 >> shift;
    let mut partial = PARTIAL.lock();
    let list = &mut partial[class];
    if *list == 0 {
        let Ok(fresh) = frame::alloc_kernel(&Machine, 0, false) else { return core::ptr::null_mut() };
        meta(fresh.0).aux.store(0, Relaxed);
        meta(fresh.0).a.store(0, Relaxed);
        link(list, fresh.0);
    }
    let pfn = *list;
    let frame = meta(pfn);
    let books = frame.aux.load(Relaxed);
    let free = frame.a.load(Relaxed);
    let (object, books) = if free != 0 {
        // SAFETY: a free object of this class: its first word is the link that `free_small` wrote.
        frame.a.store(unsafe { *(free as *const u64) }, Relaxed);
        (free, books + 1)
    } else {
        let carved = books >> 16;
        (phys::virt(Pfn(pfn).pa().0) + (u64::from(carved) << shift), books + 0x1_0001)
    };
    frame.aux.store(books, Relaxed);
    if books & 0xffff == capacity {
        unlink(list, pfn);
    }
    object as *mut u8
}

fn free_small(ptr: *mut u8, class: usize) {
    let shift = class as u32 + MIN_SHIFT;
    let capacity = PAGE_BYTES as u32 >> shift;
    let pfn = phys::phys(ptr as u64) >> 12;
    let frame = meta(pfn);
    let mut partial = PARTIAL.lock();
    let list = &mut partial[class];
    let books = frame.aux.load(Relaxed) - 1;
    if books & 0xffff == capacity - 1 {
        link(list, pfn);
    }
    if books & 0xffff == 0 {
        unlink(list, pfn);
        frame.aux.store(0, Relaxed);
        frame.a.store(0, Relaxed);
        drop(partial);
        frame::free_kernel(&Machine, Pfn(pfn), 0);
        return;
    }
    // SAFETY: the object is free from here on, and at least 16 bytes long.
    unsafe { *ptr.cast::<u64>() = frame.a.load(Relaxed) };
    frame.a.store(ptr as u64, Relaxed);
    frame.aux.store(books, Relaxed);
}

// SAFETY: objects of a class are aligned to its size, blocks to theirs; each is given out once until it is freed.
unsafe impl GlobalAlloc for Heap {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        match class_of(layout) {
            Some(class) => {
                // The books of heap frames and the frame counters change together.
                Machine.critical_enter();
                let object = alloc_small(class);
                Machine.critical_exit();
                object
            }
            None => match frame::alloc_kernel(&Machine, order_of(layout), false) {
                Ok(pfn) => phys::virt(pfn.pa().0) as *mut u8,
                Err(_) => core::ptr::null_mut(),
            },
        }
    }

    unsafe fn alloc_zeroed(&self, layout: Layout) -> *mut u8 {
        if class_of(layout).is_none() {
            return match frame::alloc_kernel(&Machine, order_of(layout), true) {
                Ok(pfn) => phys::virt(pfn.pa().0) as *mut u8,
                Err(_) => core::ptr::null_mut(),
            };
        }
        // SAFETY: the same layout.
        let object = unsafe { self.alloc(layout) };
        if !object.is_null() {
            // SAFETY: the object has at least `size` bytes.
            unsafe { object.write_bytes(0, layout.size()) };
        }
        object
    }

    unsafe fn dealloc(&self, ptr: *mut u8, layout: Layout) {
        match class_of(layout) {
            Some(class) => {
                Machine.critical_enter();
                free_small(ptr, class);
                Machine.critical_exit();
            }
            None => frame::free_kernel(&Machine, Pfn(phys::phys(ptr as u64) >> 12), order_of(layout)),
        }
    }

    unsafe fn realloc(&self, ptr: *mut u8, layout: Layout, new_size: usize) -> *mut u8 {
        // SAFETY: the caller's contract: a valid size for this alignment.
        let wanted = unsafe { Layout::from_size_align_unchecked(new_size, layout.align()) };
        let fits = match (class_of(layout), class_of(wanted)) {
            (Some(a), Some(b)) => a == b,
            (None, None) => order_of(layout) == order_of(wanted),
            _ => false,
        };
        if fits {
            return ptr;
        }
        // SAFETY: a fresh object, then the old one copied and freed, as the contract of `realloc` says.
        unsafe {
            let fresh = self.alloc(wanted);
            if !fresh.is_null() {
                core::ptr::copy_nonoverlapping(ptr, fresh, layout.size().min(new_size));
                self.dealloc(ptr, layout);
            }
            fresh
        }
    }
}
