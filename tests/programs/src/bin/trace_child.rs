//! A process traces its child: stops at signals and at system calls, registers and memory read and changed (ptrace(2)).

use ptshare_programs::memory::{PAGE, Region};
use ptshare_programs::process::{self, Status};
use ptshare_programs::{check, check_eq, errno, errno_name};

fn ptrace(request: u32, pid: i32, addr: usize, data: usize) -> i64 {
    // SAFETY: what the requests used here write to is live.
    unsafe { libc::syscall(libc::SYS_ptrace, request, pid, addr, data) }
}

fn must(request: u32, pid: i32, addr: usize, data: usize) {
    let result = ptrace(request, pid, addr, data);
    check!(result >= 0, "ptrace({request}) failed: {}", errno_name(errno()));
}

/// Waits for a stop, and gives its signal.
fn stopped(pid: i32) -> i32 {
    let mut status = 0;
    // SAFETY: the status is live.
    check_eq!(unsafe { libc::waitpid(pid, &mut status, 0) }, pid);
    check!(libc::WIFSTOPPED(status), "the child has not stopped: {}", Status(status));
    libc::WSTOPSIG(status)
}

fn registers(pid: i32) -> libc::user_regs_struct {
    // SAFETY: all zeros is a valid value.
    let mut registers: libc::user_regs_struct = unsafe { std::mem::zeroed() };
    must(libc::PTRACE_GETREGS, pid, 0, &raw mut registers as usize);
    registers
}

fn main() {
    let region = Region::private(PAGE);
    region.set_word(8, 1);
    let child = process::spawn(|| {
        if ptrace(libc::PTRACE_TRACEME, 0, 0, 0) != 0 {
            return 1;
        }
        // SAFETY: no pointer.
        unsafe { libc::raise(libc::SIGSTOP) };
        // The tracer has changed this word, and nobody else's.
        if region.word(8) != 2 {
            return 2;
        }
        // SAFETY: no pointer.
        unsafe { libc::raise(libc::SIGUSR1) };
        // The tracer has kept that from killing us, and says what the next call answers.
        // SAFETY: no pointer.
        let answer = unsafe { libc::syscall(libc::SYS_getppid) };
        i32::from(answer != 4711) * 3
    });
    println!("first: signal {}", stopped(child));
    let mut word = 0_u64;
    must(libc::PTRACE_PEEKDATA, child, region.base + 8, &raw mut word as usize);
    println!("the word is {}", word as u32);
    must(libc::PTRACE_POKEDATA, child, region.base + 8, 2);
    check_eq!(region.word(8), 1);
    println!("a bad address: {}", errno_of(ptrace(libc::PTRACE_PEEKDATA, child, 8, &raw mut word as usize)));
    must(libc::PTRACE_SETOPTIONS, child, 0, libc::PTRACE_O_TRACESYSGOOD as usize);
    must(libc::PTRACE_CONT, child, 0, 0);
    println!("then: signal {}", stopped(child));
    println!("while it runs: {}", {
        must(libc::PTRACE_SYSCALL, child, 0, 0);
        "calls are traced"
    });
    let mut calls = 0;
    loop {
        check_eq!(stopped(child), libc::SIGTRAP | 0x80);
        let at_entry = registers(child);
        must(libc::PTRACE_SYSCALL, child, 0, 0);
        check_eq!(stopped(child), libc::SIGTRAP | 0x80);
        calls += 1;
        if at_entry.orig_rax == libc::SYS_getppid as u64 {
            break;
        }
        check!(calls < 100, "the call never comes");
        must(libc::PTRACE_SYSCALL, child, 0, 0);
    }
    let mut registers = registers(child);
    // SAFETY: no pointer.
    println!("getppid answers this process: {}", registers.rax == unsafe { libc::getpid() } as u64);
    registers.rax = 4711;
    must(libc::PTRACE_SETREGS, child, 0, &raw mut registers as usize);
    must(libc::PTRACE_DETACH, child, 0, 0);
    println!("it ends by itself: {}", process::wait(child));
    println!("afterwards: {}", errno_of(ptrace(libc::PTRACE_CONT, child, 0, 0)));
    splices();
}

fn errno_of(result: i64) -> String {
    if result < 0 { errno_name(errno()) } else { "ok".into() }
}

fn pipe() -> [i32; 2] {
    let mut ends = [0; 2];
    // SAFETY: room for two descriptors.
    check_eq!(unsafe { libc::pipe(ends.as_mut_ptr()) }, 0);
    ends
}

/// Bytes through pipes without passing this program's memory: vmsplice, tee, splice.
fn splices() {
    let ([from, to], [second_from, second_to]) = (pipe(), pipe());
    let file = ptshare_programs::memory::memfd(PAGE);
    use std::os::fd::AsRawFd;
    let text = b"through the pipe";
    let range = libc::iovec { iov_base: text.as_ptr() as *mut _, iov_len: text.len() };
    let mut offset = 100_i64;
    let none = std::ptr::null_mut();
    // SAFETY: the range and the offset are live; the descriptors are this program's.
    unsafe {
        println!("vmsplice: {}", libc::vmsplice(to, &range, 1, 0));
        println!("tee: {}", libc::tee(from, second_to, 7, 0));
        println!("splice: {}", libc::splice(from, none, file.as_raw_fd(), &mut offset, 64, 0));
        println!("and on: {offset}, {}", errno_of(libc::splice(from, none, second_to, none, 64, 2) as i64));
        let mut bytes = [0_u8; 16];
        println!("read: {}", libc::pread(file.as_raw_fd(), bytes.as_mut_ptr().cast(), 16, 100));
        println!("{}", String::from_utf8_lossy(&bytes));
        println!("read: {}", libc::read(second_from, bytes.as_mut_ptr().cast(), 16));
        println!("{}", String::from_utf8_lossy(&bytes[..7]));
        println!("no pipe: {}", errno_of(libc::tee(file.as_raw_fd(), to, 1, 0) as i64));
    }
    // A signal that is read, not taken.
    // SAFETY: a valid set, and a live buffer for one record.
    unsafe {
        let mut set: libc::sigset_t = std::mem::zeroed();
        libc::sigemptyset(&mut set);
        libc::sigaddset(&mut set, libc::SIGUSR2);
        libc::sigprocmask(libc::SIG_BLOCK, &set, std::ptr::null_mut());
        let fd = libc::signalfd(-1, &set, libc::SFD_NONBLOCK);
        let mut info: libc::signalfd_siginfo = std::mem::zeroed();
        let bytes = size_of::<libc::signalfd_siginfo>();
        let read = |info: &mut libc::signalfd_siginfo| libc::read(fd, (&raw mut *info).cast(), bytes) as i64;
        println!("no signal: {}", errno_of(read(&mut info)));
        libc::raise(libc::SIGUSR2);
        println!("a signal: {} of {}", errno_of(read(&mut info)), info.ssi_signo == libc::SIGUSR2 as u32);
    }
}
