//! Bring-up and shutdown.

use crate::{config, fs, task, verify};
use ptshare_abi::Errno;
use ptshare_machine::{Machine, hyper};
use ptshare_mm::Env;
use ptshare_paging::PAGE_BYTES;

/// An address space of the guest.
pub type KMm = ptshare_mm::Mm<Machine>;
/// An object of the guest.
pub type KObject = ptshare_mm::Object<Machine>;

/// Frames that must be free, above the allocator's reserve, before a call may create something on the heap.
const HEAP_ROOM_FRAMES: u64 = 64;

/// The kernel's main function, on the boot stack: brings everything up, then becomes the idle loop.
pub fn main() -> ! {
    config::init();
    task::limits::set_max_threads(config::ram_frames() * PAGE_BYTES);
    fs::init();
    if let Err(errno) = task::exec::spawn_init(b"/init") {
        klog!(1, "cannot start /init: {errno:?}");
        hyper::exit(127);
    }
    task::run_idle()
}

/// May a call that creates something go ahead? The kernel's heap lives on a reserve that user allocations cannot
/// touch; this keeps calls from eating it up.
///
/// # Errors
/// ENOMEM when memory is nearly gone.
#[inline]
pub fn heap_room() -> Result<(), Errno> {
    let free = Machine.allocator().lock().free_frames(Machine.census());
    if free >= config::reserve_frames() / 2 + HEAP_ROOM_FRAMES { Ok(()) } else { Err(Errno::ENOMEM) }
}

/// Ends the run: init has exited, or a program asked for it. Every other process is gone or frozen.
pub fn shutdown(status: u8) -> ! {
    verify::at_shutdown();
    hyper::exit(status)
}
