//! What the processes of a trace share: whose turn it is, and what each operation gave. One shared mapping, made once.

use ptshare_programs::check;
use ptshare_trace::watch::{FILE_PAGES, WATCHED};
use ptshare_trace::{OPS_MAX, PROCS, SLOTS};
use std::ptr;
use std::sync::atomic::{AtomicBool, AtomicI32, AtomicU8, AtomicU64, AtomicUsize, Ordering::SeqCst};

/// Operations and endings.
const RECORDS: usize = OPS_MAX + PROCS;
/// Bytes of notes of one trace.
const NOTES: usize = 64 << 10;
/// Bytes of the buffer that system calls read into and write from.
pub const SCRATCH: usize = 64 << 10;
/// Segments that are removed at the end of a trace at the latest.
const SEGMENTS: usize = 64;

/// What an operation gave.
#[derive(Default)]
pub struct Record {
    /// 0: its process was not there. 1: done. 2: left out, because it would have reached outside of the trace's memory.
    pub state: AtomicU64,
    /// The result, or the negative error number; for an address, its offset in the arena.
    pub result: AtomicU64,
    /// The signal that stopped it, and its code in the upper half.
    pub signal: AtomicU64,
    /// The address of the signal, as offset in the arena.
    pub address: AtomicU64,
    /// What it read.
    pub extra: AtomicU64,
}

/// The record of a page that cannot be read: the signal and its code are in it.
pub const UNREADABLE: u64 = 0xdead_0000_0000_0000;

/// The shared page.
pub struct Control {
    /// The next operation.
    pub pc: AtomicUsize,
    /// A process that has left and that the holder of the turn waits for, and the operation by which it left.
    pub leaver: AtomicI32,
    /// See `leaver`.
    pub left_by: AtomicUsize,
    /// By process.
    pub alive: [AtomicBool; PROCS],
    /// It has been forked once.
    pub used: [AtomicBool; PROCS],
    /// Its PID.
    pub pid: [AtomicI32; PROCS],
    /// Its parent's number; [`PROCS`] is the supervisor.
    pub parent: [AtomicUsize; PROCS],
    /// By operation.
    pub records: [Record; RECORDS],
    /// Content of the watched pages at the end of each process, 0 for zeros or an unknown place.
    pub pages: [[AtomicU64; WATCHED]; PROCS],
    /// Content of files at the end of the last process.
    pub files: [[AtomicU64; FILE_PAGES + 1]; SLOTS],
    segments: [AtomicI32; SEGMENTS],
    segment_count: AtomicUsize,
    notes: [AtomicU8; NOTES],
    notes_len: AtomicUsize,
}

/// Maps shared memory for good, zeroed.
pub fn shared<T>() -> &'static T {
    // SAFETY: a new mapping at a free address harms nobody.
    let base = unsafe {
        libc::mmap(ptr::null_mut(), size_of::<T>(), 3, libc::MAP_SHARED | libc::MAP_ANONYMOUS, -1, 0)
    };
    check!(base != libc::MAP_FAILED, "no shared memory");
    // SAFETY: page-aligned, large enough, never unmapped; the types used here are made of atomics, for which zeros are
    // valid.
    unsafe { &*base.cast::<T>() }
}

impl Control {
    /// Forgets the last trace, of which so many operations were run.
    pub fn reset(&self) {
        for at in 0..PROCS {
            self.alive[at].store(false, SeqCst);
            self.used[at].store(false, SeqCst);
            self.parent[at].store(PROCS, SeqCst);
            self.pages[at].iter().for_each(|page| page.store(0, SeqCst));
        }
        for record in &self.records {
            for word in [&record.state, &record.result, &record.signal, &record.address, &record.extra] {
                if word.load(SeqCst) != 0 {
                    word.store(0, SeqCst);
                }
            }
        }
        self.files.iter().flatten().for_each(|page| page.store(0, SeqCst));
        self.pc.store(0, SeqCst);
        self.leaver.store(0, SeqCst);
        self.notes_len.store(0, SeqCst);
        self.segment_count.store(0, SeqCst);
    }

    /// Adds to the notes; what does not fit is cut off.
    pub fn note(&self, text: &[u8]) {
        let at = self.notes_len.load(SeqCst);
        let fits = text.len().min(NOTES - at);
        for (place, &byte) in self.notes[at..].iter().zip(&text[..fits]) {
            place.store(byte, SeqCst);
        }
        self.notes_len.store(at + fits, SeqCst);
    }

    /// The notes.
    pub fn notes(&self) -> String {
        let bytes = self.notes[..self.notes_len.load(SeqCst)].iter().map(|byte| byte.load(SeqCst)).collect();
        String::from_utf8(bytes).unwrap_or_default()
    }

    /// Remembers a segment for [`Control::remove_segments`]. False if there is no room: then it must be removed at once.
    pub fn segment(&self, id: i32) -> bool {
        let at = self.segment_count.load(SeqCst);
        if at < SEGMENTS {
            self.segments[at].store(id, SeqCst);
            self.segment_count.store(at + 1, SeqCst);
        }
        at < SEGMENTS
    }

    /// Removes all segments of the trace.
    pub fn remove_segments(&self) {
        for id in &self.segments[..self.segment_count.load(SeqCst)] {
            // SAFETY: no pointer is read or written by IPC_RMID.
            unsafe { libc::shmctl(id.load(SeqCst), libc::IPC_RMID, ptr::null_mut()) };
        }
    }

    /// Living processes.
    pub fn living(&self) -> usize {
        self.alive.iter().filter(|alive| alive.load(SeqCst)).count()
    }
}
