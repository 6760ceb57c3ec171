//! The crash record: what the kernel leaves behind when it panics or takes an exception it cannot handle.

/// Most return addresses that an epitaph holds.
pub const BACKTRACE_MAX: usize = 32;
/// Bytes of message that an epitaph holds.
pub const MESSAGE_MAX: usize = 1024;

/// The crash record. Plain words: it is written once, by a CPU that will never run again.
#[repr(C)]
#[derive(Clone, Debug)]
pub struct Epitaph {
    /// CPU that died.
    pub cpu: u64,
    /// Its exception vector, or `u64::MAX` for a panic in code.
    pub vector: u64,
    /// Error code of the exception.
    pub error_code: u64,
    /// CR2 at the time.
    pub cr2: u64,
    /// CR3 at the time.
    pub cr3: u64,
    /// rax rbx rcx rdx rsi rdi rbp rsp r8..r15 rip rflags of the exception, zero for a panic in code.
    pub regs: [u64; 18],
    /// Kernel return addresses, innermost first; the first zero ends them.
    pub backtrace: [u64; BACKTRACE_MAX],
    /// Process that was running, 0 for none.
    pub pid: u64,
    /// Bytes of `message` in use.
    pub message_len: u64,
    /// What went wrong, UTF-8.
    pub message: [u8; MESSAGE_MAX],
}
