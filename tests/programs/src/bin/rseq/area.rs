//! The thread's area (include/uapi/linux/rseq.h), the call, and critical sections.

use ptshare_programs::{check, errno, errno_name};
use std::arch::asm;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering::Relaxed};

/// What stands before the address at which an interrupted section goes on: glibc's choice for x86.
pub const SIGNATURE: u32 = 0x5305_3053;
/// Bytes of an area.
pub const BYTES: u32 = 32;
/// rseq(2)'s flag.
pub const UNREGISTER: u32 = 1;

/// Offsets of two words of the area.
pub const CPU: u64 = 4;
pub const CID: u64 = 24;

/// `struct rseq`.
#[repr(C, align(32))]
#[derive(Default)]
pub struct Area {
    pub cpu_start: AtomicU32,
    pub cpu: AtomicU32,
    pub section: AtomicU64,
    pub flags: AtomicU32,
    pub node: AtomicU32,
    pub cid: AtomicU32,
    pub padding: AtomicU32,
}

/// `struct rseq_cs`: addresses of code as words.
#[repr(C, align(32))]
#[derive(Clone, Copy)]
pub struct Section {
    pub version: u32,
    pub flags: u32,
    pub start: u64,
    pub len: u64,
    pub abort: u64,
}

/// rseq(2): 0 or an error number.
pub fn call(area: u64, len: u32, flags: u32, signature: u32) -> i32 {
    // SAFETY: the kernel checks the address; what it writes there lies in an area of this program's, or nowhere.
    let result = unsafe { libc::syscall(libc::SYS_rseq, area, len, flags, signature) };
    if result == 0 { 0 } else { errno() }
}

/// The call's error by name.
pub fn named(area: u64, len: u32, flags: u32, signature: u32) -> String {
    errno_name(call(area, len, flags, signature))
}

impl Area {
    /// An area for the calling thread; it stays where it is for the life of the program.
    pub fn registered() -> &'static Area {
        let area: &'static Area = Box::leak(Box::default());
        let result = call(area.address(), BYTES, 0, SIGNATURE);
        check!(result == 0, "rseq failed: {}", errno_name(result));
        area
    }

    /// The area's address.
    pub fn address(&self) -> u64 {
        std::ptr::from_ref(self) as u64
    }

    /// Takes the area back from the kernel.
    pub fn unregister(&self) {
        let result = call(self.address(), BYTES, UNREGISTER, SIGNATURE);
        check!(result == 0, "unregistering failed: {}", errno_name(result));
    }

    /// The word at `offset` of the area is an index; adds one to that counter, slowly, in a critical section. `false`
    /// when the section was interrupted: then nothing was added.
    ///
    /// # Safety
    /// `counters` has a place for every index that the word can have.
    pub unsafe fn add_one(&self, offset: u64, counters: *const AtomicU64) -> bool {
        let aborted: u64;
        // SAFETY: the section writes to the area, which is this thread's, and to a counter, which the caller vouches for.
        // The kernel goes on at label 5 with all registers as they were.
        unsafe {
            asm!(
                ".pushsection .data.rseq, \"aw\"",
                ".balign 32",
                "2: .long 0, 0",
                ".quad 3f, 4f - 3f, 5f",
                ".popsection",
                "lea {index}, [rip + 2b]",
                "mov [{area} + 8], {index}",
                "3:",
                "mov {index:e}, [{area} + {offset}]",
                "mov {value}, [{counters} + 8 * {index}]",
                "mov {turns:e}, 300",
                "6: dec {turns:e}",
                "jnz 6b",
                "inc {value}",
                "mov [{counters} + 8 * {index}], {value}",
                "4:",
                "xor {turns:e}, {turns:e}",
                "jmp 7f",
                ".long 0x53053053",
                "5:",
                "mov {turns:e}, 1",
                "7:",
                area = in(reg) self,
                offset = in(reg) offset,
                counters = in(reg) counters,
                index = out(reg) _,
                value = out(reg) _,
                turns = out(reg) aborted,
                options(nostack),
            );
        }
        aborted == 0
    }

    /// Stays in a critical section until it is interrupted. Gives the address at which it went on.
    pub fn stay_until_aborted(&self) -> u64 {
        let went_on: u64;
        // SAFETY: writes to the area only; the kernel goes on at label 5 with all registers as they were.
        unsafe {
            asm!(
                ".pushsection .data.rseq, \"aw\"",
                ".balign 32",
                "2: .long 0, 0",
                ".quad 3f, 4f - 3f, 5f",
                ".popsection",
                "lea {word}, [rip + 2b]",
                "mov [{area} + 8], {word}",
                "3:",
                "pause",
                "jmp 3b",
                "4:",
                ".long 0x53053053",
                "5:",
                "lea {word}, [rip + 5b]",
                area = in(reg) self,
                word = out(reg) went_on,
                options(nostack),
            );
        }
        check!(self.section.load(Relaxed) == 0, "the pointer to the section is still there");
        went_on
    }
}
