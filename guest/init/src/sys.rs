//! The few system calls that init makes, raw.
//!
//! Numbers and flags are those of the kernel's `asm/unistd_64.h` and `asm-generic` headers.

use core::arch::asm;

/// `O_RDONLY`.
pub const O_RDONLY: i32 = 0;
/// `O_WRONLY`.
pub const O_WRONLY: i32 = 1;
/// `ECHILD`, as wait4(2) answers when there is nobody left.
pub const ECHILD: i32 = 10;
/// `EINTR`.
pub const EINTR: i32 = 4;
/// `SIGKILL`.
pub const SIGKILL: i32 = 9;

/// A system call with up to six arguments.
///
/// # Safety
/// Pointers among the arguments must be good for what the call does with them.
unsafe fn call(nr: usize, a: [usize; 6]) -> Result<usize, i32> {
    let result: isize;
    // SAFETY: `syscall` changes only rax, rcx and r11 here; the caller vouches for the pointers.
    unsafe {
        asm!("syscall", inlateout("rax") nr as isize => result, in("rdi") a[0], in("rsi") a[1], in("rdx") a[2],
            in("r10") a[3], in("r8") a[4], in("r9") a[5], lateout("rcx") _, lateout("r11") _, options(nostack));
    }
    if (-4095..0).contains(&result) { Err(-result as i32) } else { Ok(result as usize) }
}

/// A NUL-terminated string, for calls that take a path.
#[derive(Clone, Copy)]
pub struct CStr<'a>(&'a [u8]);

impl<'a> CStr<'a> {
    /// From bytes whose last one is the NUL.
    pub fn new(bytes: &'a [u8]) -> Option<Self> {
        (bytes.last() == Some(&0)).then_some(CStr(bytes))
    }

    /// The string with its NUL.
    pub fn bytes(self) -> &'a [u8] {
        self.0
    }

    /// The address, for an argument vector.
    pub fn ptr(self) -> *const u8 {
        self.0.as_ptr()
    }
}

/// open(2).
pub fn open(path: CStr<'_>, flags: i32) -> Result<i32, i32> {
    // SAFETY: the path is NUL-terminated and only read.
    unsafe { call(2, [path.ptr() as usize, flags as usize, 0, 0, 0, 0]) }.map(|fd| fd as i32)
}

/// close(2).
pub fn close(fd: i32) {
    // SAFETY: no pointer.
    let _ = unsafe { call(3, [fd as usize, 0, 0, 0, 0, 0]) };
}

/// dup2(2).
pub fn dup2(from: i32, to: i32) {
    // SAFETY: no pointer.
    let _ = unsafe { call(33, [from as usize, to as usize, 0, 0, 0, 0]) };
}

/// read(2).
pub fn read(fd: i32, into: &mut [u8]) -> Result<usize, i32> {
    // SAFETY: the kernel writes into `into` and no further.
    unsafe { call(0, [fd as usize, into.as_mut_ptr() as usize, into.len(), 0, 0, 0]) }
}

/// write(2), until all is written or an error comes.
pub fn write(fd: i32, mut bytes: &[u8]) {
    while !bytes.is_empty() {
        // SAFETY: the kernel reads `bytes` and no further.
        match unsafe { call(1, [fd as usize, bytes.as_ptr() as usize, bytes.len(), 0, 0, 0]) } {
            Ok(n) if n > 0 => bytes = bytes.get(n..).unwrap_or(&[]),
            Err(EINTR) => {}
            _ => return,
        }
    }
}

/// The size of an open file, bytes, by lseek(2); the position is at the start afterwards.
pub fn size(fd: i32) -> Result<usize, i32> {
    // SAFETY: no pointer.
    unsafe {
        let end = call(8, [fd as usize, 0, 2, 0, 0, 0])?;
        call(8, [fd as usize, 0, 0, 0, 0, 0])?;
        Ok(end)
    }
}

/// Fresh zeroed memory from mmap(2), never given back.
pub fn memory(bytes: usize) -> Result<&'static mut [u8], i32> {
    let len = bytes.max(1);
    // SAFETY: PROT_READ|PROT_WRITE, MAP_PRIVATE|MAP_ANONYMOUS at an address of the kernel's choice: memory of our own.
    let address = unsafe { call(9, [0, len, 3, 0x22, usize::MAX, 0]) }?;
    // SAFETY: the mapping is page-aligned, `len` bytes long, zeroed, and nobody else knows it.
    Ok(unsafe { core::slice::from_raw_parts_mut(address as *mut u8, len) })
}

/// fork(2): 0 in the child.
pub fn fork() -> Result<i32, i32> {
    // SAFETY: no pointer; the child goes on with a copy of everything.
    unsafe { call(57, [0; 6]) }.map(|pid| pid as i32)
}

/// execve(2); returns only the error.
///
/// # Safety
/// Both vectors must be NULL-terminated arrays of NUL-terminated strings.
pub unsafe fn execve(path: CStr<'_>, argv: *const *const u8, envp: *const *const u8) -> i32 {
    // SAFETY: the caller vouches for the vectors.
    unsafe { call(59, [path.ptr() as usize, argv as usize, envp as usize, 0, 0, 0]) }.err().unwrap_or(0)
}

/// wait4(2) for any child: its PID and wait status.
pub fn wait() -> Result<(i32, i32), i32> {
    let mut status = 0i32;
    // SAFETY: the kernel writes one i32 through the pointer.
    let pid = unsafe { call(61, [usize::MAX, &raw mut status as usize, 0, 0, 0, 0]) }?;
    Ok((pid as i32, status))
}

/// kill(2) of every process but this one.
pub fn kill_all(signal: i32) {
    // SAFETY: no pointer.
    let _ = unsafe { call(62, [usize::MAX, signal as usize, 0, 0, 0, 0]) };
}

/// chdir(2).
pub fn chdir(path: CStr<'_>) -> Result<(), i32> {
    // SAFETY: the path is NUL-terminated and only read.
    unsafe { call(80, [path.ptr() as usize, 0, 0, 0, 0, 0]) }.map(drop)
}

/// mkdir(2).
pub fn mkdir(path: CStr<'_>, mode: u32) -> Result<(), i32> {
    // SAFETY: the path is NUL-terminated and only read.
    unsafe { call(83, [path.ptr() as usize, mode as usize, 0, 0, 0, 0]) }.map(drop)
}

/// Whether a descriptor is a terminal: it answers TCGETS.
pub fn is_terminal(fd: i32) -> bool {
    let mut termios = [0u8; 64];
    // SAFETY: TCGETS writes a kernel `struct termios`, 36 bytes.
    unsafe { call(16, [fd as usize, 0x5401, termios.as_mut_ptr() as usize, 0, 0, 0]) }.is_ok()
}

/// Puts this process into a session of its own with the terminal as its controlling terminal.
pub fn take_terminal(fd: i32) {
    // SAFETY: no pointer: setsid, then TIOCSCTTY with argument 0, which also makes this group the foreground one.
    unsafe {
        let _ = call(112, [0; 6]);
        let _ = call(16, [fd as usize, 0x540e, 0, 0, 0, 0]);
    }
}

/// Puts this process into a process group of its own.
pub fn own_group() {
    // SAFETY: no pointer: setpgid(0, 0).
    let _ = unsafe { call(109, [0; 6]) };
}

/// exit_group(2).
pub fn exit_group(status: i32) -> ! {
    loop {
        // SAFETY: no pointer, and it does not return.
        let _ = unsafe { call(231, [status as usize, 0, 0, 0, 0, 0]) };
    }
}
