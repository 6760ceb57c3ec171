//! Open files on their way through a socket (SCM_RIGHTS).

use crate::fs::File;
use alloc::sync::Arc;
use alloc::vec::Vec;
use core::sync::atomic::{AtomicBool, AtomicUsize, Ordering::SeqCst};
use ptshare_abi::Errno;
use ptshare_sync::{Lock, Rank};

/// Most files of one message (Linux SCM_MAX_FD).
pub const FILES_MAX: usize = 253;
/// Most files on their way at once. Sockets that hold each other this way are never freed, so there is an end to them.
const IN_FLIGHT_MAX: usize = 4096;

static IN_FLIGHT: AtomicUsize = AtomicUsize::new(0);

/// The files of one message.
pub struct Rights(Vec<Arc<File>>);

impl Rights {
    /// Sends these files on their way.
    ///
    /// # Errors
    /// EINVAL for more than [`FILES_MAX`]; ETOOMANYREFS when too many are on their way.
    pub fn new(files: Vec<Arc<File>>) -> Result<Rights, Errno> {
        if files.len() > FILES_MAX {
            return Err(Errno::EINVAL);
        }
        let count = files.len();
        if IN_FLIGHT.fetch_add(count, SeqCst) + count > IN_FLIGHT_MAX {
            IN_FLIGHT.fetch_sub(count, SeqCst);
            return Err(Errno::ETOOMANYREFS);
        }
        Ok(Rights(files))
    }

    /// They have arrived.
    pub fn take(mut self) -> Vec<Arc<File>> {
        let files = core::mem::take(&mut self.0);
        IN_FLIGHT.fetch_sub(files.len(), SeqCst);
        files
    }
}

impl Drop for Rights {
    fn drop(&mut self) {
        IN_FLIGHT.fetch_sub(self.0.len(), SeqCst);
    }
}

static GRAVE: Lock<Vec<Rights>> = Lock::new(Rank::Files, Vec::new());
static DIGGING: AtomicBool = AtomicBool::new(false);

/// Closes files that will not arrive: one after the other, because a file may be a socket in which others lie, and a
/// chain of those is as long as a program likes, while a kernel stack is not.
pub fn bury(rights: Rights) {
    GRAVE.lock().push(rights);
    while !DIGGING.swap(true, SeqCst) {
        loop {
            let next = GRAVE.lock().pop();
            match next {
                Some(next) => drop(next),
                None => break,
            }
        }
        DIGGING.store(false, SeqCst);
        if GRAVE.lock().is_empty() {
            break;
        }
    }
}
